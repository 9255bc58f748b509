"""Goes on training the proxy on selections, by several protocols; many trainings at a time."""

import concurrent.futures
import dataclasses
import functools
import multiprocessing
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from beam_quad import scoring, seeding
from beam_quad.gradients import Proxy, load_tokenizer
from beam_quad.proof import Losses
from pipelines.demo import evaluation, proxy
from tests.benchmarks.duel.kept import Kept
from tests.benchmarks.duel.material import GENERAL, Material


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a selection is judged.

    Attributes:
      rate: Factor of the learning rate.
      from_scratch: Whether a new model is trained, at the rate of pre-training, on the selection and as many tokens of
        random texts; else the proxy goes on training on the selection alone.
    """

    rate: float = 1.0
    from_scratch: bool = False


PROTOCOLS = {
    "demo": Protocol(),
    "tiny": Protocol(rate=0.1),
    "scratch": Protocol(from_scratch=True),
}


@dataclasses.dataclass(frozen=True)
class Training:
    """One training; equal ones are trained once.

    Attributes:
      protocol: A name of `PROTOCOLS`.
      selection: Positions of the documents.
      seed: Decides their order; of the random half, too.
    """

    protocol: str
    selection: tuple[int, ...]
    seed: int


class Trainer:
    """Trains and measures.

    Args:
      material: Documents, held-out texts and proxy.
      kept: Keeps what was measured.
    """

    def __init__(self, material: Material, kept: Kept) -> None:
        self._material = material
        self._kept = kept
        self._texts = {GENERAL: material.general}
        self._texts |= {name: split.heldout for name, split in material.splits.items()}

    def measure(
        self, wanted: Mapping[Training, Iterable[str]]
    ) -> dict[tuple[Training, str], Losses]:
        """Trains what was not trained before.

        Args:
          wanted: Names of the texts to measure after each training: query domains, or the general mix.

        Returns:
          Losses by training and name.
        """
        found = {}
        missing: dict[Training, list[str]] = {}
        for training, names in wanted.items():
            for name in names:
                array = self._kept.find("trained", self._parts(training, name))
                if array is None:
                    missing.setdefault(training, []).append(name)
                else:
                    found[training, name] = Losses(*array)
        self._kept.say(f"{len(missing)} of {len(wanted)} trainings are to be done")
        workers = self._material.size.num_workers or os.cpu_count() or 1
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(workers, context) as pool:
            futures = {
                pool.submit(_train, self._job(training, names)): (training, names)
                for training, names in missing.items()
            }
            for done, future in enumerate(concurrent.futures.as_completed(futures), 1):
                training, names = futures[future]
                for name, losses in zip(names, future.result(), strict=True):
                    self._kept.put("trained", self._parts(training, name), losses)
                    found[training, name] = Losses(*losses)
                if done % max(1, len(futures) // 10) == 0:
                    self._kept.say(f"{done} of {len(futures)} trainings done")
        return found

    def before(self, name: str) -> Losses:
        """Measures the proxy itself."""
        parts = (self._material.fingerprint, *self._texts[name])

        def compute() -> np.ndarray:
            model = evaluation.load(self._material.model)
            return _losses(model, self._material.model, self._texts[name])

        return Losses(*self._kept.get(f"before {name}", parts, compute))

    def _recipe(self, protocol: Protocol) -> proxy.Recipe:
        own = self._material.size.recipe
        if protocol.from_scratch:
            return dataclasses.replace(
                own, num_tokens=2 * own.num_tokens, learning_rate=proxy.Recipe().learning_rate
            )
        return dataclasses.replace(own, learning_rate=own.learning_rate * protocol.rate)

    def _parts(self, training: Training, name: str) -> tuple[object, ...]:
        material, protocol = self._material, PROTOCOLS[training.protocol]
        content = seeding.digest(*(material.texts[i] for i in training.selection))
        what = (protocol, self._recipe(protocol), training.seed)
        return (material.fingerprint, content, *what, seeding.digest(*self._texts[name]))

    def _job(self, training: Training, names: Sequence[str]) -> "_Job":
        material, protocol = self._material, PROTOCOLS[training.protocol]
        documents = [material.tokens[i] for i in training.selection]
        if protocol.from_scratch:
            num_tokens = material.size.budget_tokens
            documents += evaluation.random_draw(material.tokens, num_tokens, 1000 + training.seed)
        return _Job(
            model=material.model,
            is_new=protocol.from_scratch,
            documents=documents,
            recipe=self._recipe(protocol),
            seed=training.seed,
            texts=[self._texts[name] for name in names],
            num_threads=1 if material.size.num_workers is None else os.cpu_count() or 1,
        )


@dataclasses.dataclass(frozen=True)
class _Job:
    """What a process needs for one training."""

    model: pathlib.Path
    is_new: bool
    documents: list[Sequence[int]]
    recipe: proxy.Recipe
    seed: int
    texts: list[list[str]]
    num_threads: int


def _train(job: _Job) -> list[np.ndarray]:
    torch.set_num_threads(job.num_threads)
    model = evaluation.load(job.model)
    if job.is_new:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeding.integer(job.seed, "model"))
            model = type(model)(model.config)
    proxy.train(model, job.documents, job.recipe, seeding.integer(job.seed, "evaluation"))
    return [_losses(model, job.model, texts) for texts in job.texts]


def _losses(model: torch.nn.Module, folder: pathlib.Path, texts: Sequence[str]) -> np.ndarray:
    """Measures texts: sums of their tokens' losses and numbers of these, float64 [2, num_texts]."""
    read = Proxy(model.eval(), _tokenizer(folder), proxy.CONTEXT_LENGTH)
    documents = read.read(texts)
    means = scoring.PerplexityScorer(read).score(documents)[:, 0]
    return np.stack([means * documents.loss_tokens, documents.loss_tokens.astype(np.float64)])


@functools.lru_cache(maxsize=1)
def _tokenizer(folder: pathlib.Path) -> object:
    return load_tokenizer(str(folder), None)
