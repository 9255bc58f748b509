"""kronfluence: its factors, and its pairwise scores with one aggregated query."""

import copy
import itertools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import kronfluence
import numpy as np
import torch

from beam_quad.gradients import Proxy
from beam_quad.gradients.windows import Documents
from tests.benchmarks.influence import clocks
from tests.benchmarks.influence.clocks import Cost
from tests.benchmarks.influence.methods import plain_kernels
from tests.benchmarks.influence.ours import Tracked
from tests.benchmarks.influence.peers import token_loss

_FACTORS = kronfluence.FactorArguments(strategy="ekfac", use_empirical_fisher=True)


class _SumLoss(kronfluence.Task):  # type: ignore[misc]
    """The sum of a batch's token losses; notes when the loss of a batch of candidates is asked for.

    Attributes:
      requests: When, since they were last cleared.
      at_first: Called at the first of them.
    """

    def __init__(self, modules: list[str], device: torch.device) -> None:
        self.requests: list[Cost] = []
        self.at_first: Callable[[], None] | None = None
        self._modules = modules
        self._device = device

    def compute_train_loss(
        self, batch: torch.Tensor, model: Any, sample: bool = False
    ) -> torch.Tensor:
        if self.at_first and not self.requests:
            self.at_first()
        self.requests.append(clocks.now(self._device))
        return self.compute_measurement(batch, model)

    def compute_measurement(self, batch: torch.Tensor, model: Any) -> torch.Tensor:
        return token_loss(model(input_ids=batch, use_cache=False).logits, batch, reduction="sum")

    def get_influence_tracked_modules(self) -> list[str]:
        return self._modules


class Kronfluence:
    """kronfluence on a copy of the model.

    Args:
      name: In the table.
      proxy: The model.
      tracked: Which modules.
      folder: Where it keeps its factors and scores.
    """

    def __init__(self, name: str, proxy: Proxy, tracked: Tracked, folder: pathlib.Path) -> None:
        self.name = name
        self._device = proxy.device
        self._task = _SumLoss([block.module for block in tracked.blocks], proxy.device)
        model = kronfluence.prepare_model(copy.deepcopy(proxy.model), self._task)
        self._analyzer = kronfluence.Analyzer(
            "peer",
            model,
            self._task,
            cpu=proxy.device.type == "cpu",
            disable_tqdm=True,
            output_dir=str(folder),
        )
        self._scoring = kronfluence.ScoreArguments(
            damping_factor=None,  # 0.1 of the mean eigenvalue, as ours
            aggregate_query_gradients=True,
            per_sample_gradient_dtype=proxy.dtype,
            score_dtype=proxy.dtype,
        )
        self._query: list[torch.Tensor] = []

    def fit(self, sample: Documents, query: Documents, micro_batch: int) -> tuple[Cost, Cost]:
        """Fits EK-FAC to a sample; returns the costs of both passes and of the eigendecompositions."""
        self._query = _tensors(query)
        options = {
            "dataset": _tensors(sample),
            "per_device_batch_size": _batch_size(sample, micro_batch),
            "factor_args": _FACTORS,
        }
        with plain_kernels():
            began = clocks.now(self._device)
            self._analyzer.fit_covariance_matrices("factors", **options)
            covered = clocks.now(self._device)
            self._analyzer.perform_eigendecomposition("factors", factor_args=_FACTORS)
            decomposed = clocks.now(self._device)
            self._analyzer.fit_lambda_matrices("factors", **options)
        both = clocks.now(self._device) - began
        return both - (decomposed - covered), decomposed - covered

    def score(self, documents: Documents, micro_batch: int) -> np.ndarray:
        """Scores documents, in our unit: mean losses of documents, and of the query's."""
        found = self._pairwise(
            self._query, _tensors(documents), _batch_size(documents, micro_batch)
        )
        query_tokens = sum(len(tokens) - 1 for tokens in self._query)
        scores: np.ndarray = found.double().numpy() / documents.loss_tokens / query_tokens
        return scores

    def measure(self, documents: Documents, micro_batch: int) -> Cost:
        """Takes the marginal cost of candidates.

        One batch more is scored than asked for: from the first request for a loss to the last, all batches but that
        one pass, and neither the query nor the reading of the factors nor the writing of the scores.
        """
        candidates, size = _tensors(documents), _batch_size(documents, micro_batch)
        short = [self._query[0][:2]]
        self._task.requests.clear()
        self._pairwise(short, [*candidates, *itertools.islice(candidates, size)], size)
        return self._task.requests[-1] - self._task.requests[0]

    def memory(self, documents: Documents, micro_batch: int) -> float:
        """Returns the most memory over the loaded model while candidates are scored, in 10**6 bytes.

        That is from the first request for a loss of theirs: the query's gradients and what else is held by then counts,
        the passes over the query and the preconditioning do not.
        """
        memory = clocks.Memory(self._device)
        self._task.at_first = memory.restart
        self.measure(documents, micro_batch)
        self._task.at_first = None
        return memory.peak()

    def _pairwise(
        self, query: Sequence[torch.Tensor], candidates: Sequence[torch.Tensor], size: int
    ) -> torch.Tensor:
        with plain_kernels():
            self._analyzer.compute_pairwise_scores(
                "scores",
                "factors",
                query,
                candidates,
                per_device_query_batch_size=1,
                per_device_train_batch_size=size,
                score_args=self._scoring,
                overwrite_output_dir=True,
            )
        scores: torch.Tensor = self._analyzer.load_pairwise_scores("scores")["all_modules"][0]
        return scores


def _tensors(documents: Documents) -> list[torch.Tensor]:
    return [torch.tensor(list(window.tokens)) for window in documents.windows]


def _batch_size(documents: Documents, micro_batch: int) -> int:
    return max(1, micro_batch // len(documents.windows[0].tokens))
