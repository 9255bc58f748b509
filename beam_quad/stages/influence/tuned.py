"""The proxy model tuned on the query set."""

import copy
import dataclasses
from typing import Any

import safetensors.torch

from beam_quad.additive import ByName, Tally
from beam_quad.artifacts import files
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.gradients.proxy import Proxy
from beam_quad.gradients.tuning import Tuning
from beam_quad.plan.work import Sizes, Work
from beam_quad.scoring.loss_drop import RATES, tune_on_query
from beam_quad.stages.influence.proxy import ProxyModel, ProxyStage
from beam_quad.stages.read.query import Query, UsedTexts

_WEIGHTS = "weights.safetensors"


@dataclasses.dataclass(frozen=True)
class TuneProxy(ProxyStage):
    """Tunes a copy of the proxy on the texts of all query groups, in one piece on one device.

    Writes the copy's parameters in the proxy's dtype, and the number of used texts of each group. During tuning the
    device holds the proxy, the copy in float32, its gradients and AdamW's two moments: 16 bytes per parameter on top of
    the proxy and the activations of a micro-batch. A worker that scores with the copy holds two models (`apply`).

    Args:
      base: The proxy model.
      query: The query set; its groups are pooled.
      tuning: The recipe, except for its learning rate.
      rates: Learning rates to try, as for `tune_on_query`.
    """

    kind = "tuned"
    artifact_name = "query.json"

    base: ProxyModel
    query: tuple[Query, ...]
    tuning: Tuning
    rates: tuple[float, ...] = RATES

    @property
    def root(self) -> str:
        return self.query[0].root

    @property
    def proxy(self) -> ProxyModel:
        return self.base

    def work(self, sizes: Sizes) -> Work:
        # Every learning rate that is tried, and the best one on all texts; a backward pass costs two forward passes.
        passes = (len(self.rates) + 1) * self.tuning.epochs
        flops = 3 * passes * sizes.query_tokens * sizes.scoring.forward_flops(sizes.window_tokens)
        return Work(
            "tune",
            sizes.query_documents,
            float32_flops=flops,
            # The copy, its gradients and the two moments of AdamW.
            memory_bytes=4 * 4.0 * sizes.num_parameters,
        )

    def pieces(self) -> list[int]:
        return [0]

    def do(self, piece: int, model: Proxy) -> ByName[UsedTexts]:
        texts: list[str] = []
        counts: dict[str, UsedTexts] = {}
        for group in self.query:
            found = group.read()
            documents = int((model.read(found.texts).loss_tokens > 0).sum())
            # Texts without a loss are counted as unused, as such rows of the corpus are.
            unused = found.unused + Tally(model.without_loss(found.texts))
            counts[group.name] = UsedTexts(documents, unused)
            texts += found.texts
        tuned = tune_on_query(model, texts, self.tuning, self.rates)
        # A tied weight is listed once, under its first name; safetensors refuses tensors that share memory.
        parameters = {name: own.cpu().contiguous() for name, own in tuned.model.named_parameters()}
        files.write_once(self.path(_WEIGHTS), safetensors.torch.save(parameters))
        return ByName(counts)

    def finish(self, total: ByName[UsedTexts]) -> None:
        write_json(self.artifact, {name: own.as_json() for name, own in total.named.items()})

    def apply(self, proxy: Proxy) -> Proxy:
        """Copies the loaded proxy on its device and sets the tuned parameters in the copy.

        The copy is not cached: its one owner is the scorer, which the process caches.
        """
        model = copy.deepcopy(proxy.model)
        weights = safetensors.torch.load(files.read_bytes(self.path(_WEIGHTS)))
        for name, parameter in model.named_parameters():
            # In place, so tied weights stay tied.
            parameter.data.copy_(weights[name])
        return dataclasses.replace(proxy, model=model)

    def groups(self) -> dict[str, dict[str, Any]]:
        """As `CountsQuery.groups`."""
        found = read_json(self.artifact)
        return {group.name: found[group.name] for group in self.query}
