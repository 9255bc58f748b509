"""One model: what is made once for it, then all methods on documents of one length."""

import copy
import dataclasses
import pathlib
import statistics
from collections.abc import Callable

import torch

from beam_quad.gradients import Proxy, ProxySpec
from beam_quad.gradients.windows import Documents
from tests.benchmarks.influence import clocks, material, ours, peers, ranking, report
from tests.benchmarks.influence.material import Plan, Texts
from tests.benchmarks.influence.methods import Method
from tests.benchmarks.influence.ours import Fitted
from tests.benchmarks.influence.race import Outcome, Rules, race
from tests.benchmarks.influence.report import Agreement
from tests.launches import count_launches

FORWARD = "forward only (perplexity)"
EXACT = "exact, attention"
EXACT_GROUPS = f"exact, attention, {ours.NUM_GROUPS} query groups"
EXACT_ALL = "exact, all layers"
EXACT_UPPER = "exact, upper half"
BACKWARD = "forward + backward, all parameters"
FIT = "EK-FAC fit, attention, both passes"
VMAP = "per-example gradients, vmap(grad)"
DATTRI = "dattri, hooks, not projected"
KRON = "kronfluence, pairwise scores"

# A run's defaults, for the models here.
_CONTEXT_LENGTH, _MAX_WINDOWS, _TEXTS_AT_ONCE = 1024, 4, 4096
_COMPARED = (VMAP, DATTRI, KRON)
_SLOW_PEERS = (VMAP, DATTRI, KRON)
_RATIOS = {
    "exact_over_forward": (EXACT, FORWARD),
    "exact_8_groups_over_forward": (EXACT_GROUPS, FORWARD),
    "exact_all_layers_over_forward": (EXACT_ALL, FORWARD),
    "exact_upper_half_over_forward": (EXACT_UPPER, FORWARD),
    "forward_backward_over_forward": (BACKWARD, FORWARD),
    "kronfluence_over_forward": (KRON, FORWARD),
    "kronfluence_over_exact": (KRON, EXACT),
    "vmap_over_exact": (VMAP, EXACT),
    "dattri_over_exact": (DATTRI, EXACT),
    "ekfac_fit_over_forward_backward": (FIT, BACKWARD),
}
_MEMORY_RATIOS = {
    "exact_memory_over_forward": (EXACT, FORWARD),
    "exact_memory_over_forward_backward": (EXACT, BACKWARD),
    "kronfluence_memory_over_exact": (KRON, EXACT),
}
_CORRELATIONS = {
    "kronfluence_rank_correlation": KRON,
}


@dataclasses.dataclass
class Bench:
    """A model, with what all lengths share.

    Attributes:
      label: Of the model, in titles and in JSON.
      plan: How much of everything.
      texts: The demo's.
      proxy: The model.
      fitted: Its vectors.
      upper_half: Rank correlation of the upper half of the layers with all of them, by the query's domain.
      kronfluence: With factors of its own; None where it is not installed.
      rules: How methods are timed.
      say: Takes progress.
    """

    label: str
    plan: Plan
    texts: Texts
    proxy: Proxy
    fitted: Fitted
    upper_half: dict[str, float]
    kronfluence: Method | None
    rules: Rules
    say: Callable[[str], None]

    @classmethod
    def prepare(
        cls,
        plan: Plan,
        texts: Texts,
        proxy: Proxy,
        rules: Rules,
        scratch: pathlib.Path,
        say: Callable[[str], None],
    ) -> "Bench":
        """Fits what the methods need, on documents of the proxy's context."""
        length, tokenizer = proxy.context_length, proxy.tokenizer
        proxy.max_batch_tokens = min(rules.micro_batches)
        sample = material.long_texts(tokenizer, texts.documents, length, plan.num_sample)
        query = material.long_texts(tokenizer, texts.query, length, plan.num_query)
        say(f"{plan.name}: fitting EK-FAC to {len(sample)} documents of {length} tokens")
        fitted = ours.fit(proxy, sample, query)
        say(f"{plan.name}: {len(fitted.bases)} eigenbases took {_show(fitted.eigendecomposition)}")
        upper = ranking.upper_half(proxy, texts.documents, *plan.num_ranking)
        by_domain = ", ".join(f"{domain} {found:.3f}" for domain, found in upper.items())
        say(f"{plan.name}: the upper half ranks as all attention layers: Spearman {by_domain}")
        kronfluence = _kronfluence(proxy, fitted, sample, query, scratch, say)
        return cls(plan.name, plan, texts, proxy, fitted, upper, kronfluence, rules, say)

    def in_bfloat16(self) -> "Bench":
        """The same with the model in bfloat16, without what needs float32."""
        model = copy.deepcopy(self.proxy.model).to(torch.bfloat16)
        proxy = dataclasses.replace(self.proxy, model=model)
        return dataclasses.replace(self, label=f"{self.label}-bf16", proxy=proxy, kronfluence=None)

    def run(self, length: int) -> dict[str, float | None]:
        """Measures all methods at one length, prints the table and returns what goes into the JSON."""
        proxy = dataclasses.replace(self.proxy, context_length=length)
        num_round = self.plan.round_tokens // length
        num_documents = max(self.plan.num_documents[length], num_round)
        texts = material.long_texts(proxy.tokenizer, self.texts.documents, length, num_documents)
        documents = material.read_exactly(proxy, texts)
        in_round = material.first(documents, num_round)
        methods = self._methods(proxy, texts)
        outcomes = race(proxy, methods, in_round, self.rules, self.say)
        agreements = self._agreements(methods, documents, outcomes, num_round)
        title = f"\n{self.label}, {length} tokens, {num_round} documents a round"
        print(report.table(title, in_round, outcomes, FORWARD, agreements) + "\n", flush=True)
        return _summary(outcomes, agreements) | _launches(methods, in_round)

    def batching(self) -> dict[str, float | None]:
        """Returns what goes into the JSON about micro-batches of the corpus's documents, whole as a run scores them.

        As many go to the scorer at once as in a run; a micro-batch is as large as a run's default.
        """
        proxy, most = self.proxy, ProxySpec("").max_batch_tokens
        proxy = dataclasses.replace(proxy, context_length=_CONTEXT_LENGTH, max_windows=_MAX_WINDOWS)
        texts = [document.text for document in self.texts.documents[:_TEXTS_AT_ONCE]]
        windows = proxy.read(texts).windows
        sizes = [batch.tokens.numel() for batch, _ in proxy.even_batches(windows, most)]
        num_tokens = sum(len(window.tokens) for window in windows)
        return {
            "padding_share": report.rounded(1 - num_tokens / sum(sizes)),
            "micro_batch_fill": report.rounded(statistics.fmean(sizes) / most),
        }

    def ranks(self) -> dict[str, float | None]:
        """Returns what goes into the JSON about the upper half: over the queries, mean, lowest and highest."""
        found = list(self.upper_half.values())
        values = {"": statistics.fmean(found), "_lowest": min(found), "_highest": max(found)}
        return {f"upper_half_rank_correlation{k}": report.rounded(v) for k, v in values.items()}

    def _methods(self, proxy: Proxy, texts: list[str]) -> list[Method]:
        fitted = self.fitted
        methods: list[Method] = [
            ours.forward_only(FORWARD, proxy),
            ours.exact(EXACT, proxy, fitted.attention),
            ours.exact_groups(EXACT_GROUPS, proxy, fitted),
            ours.exact(EXACT_ALL, proxy, fitted.everything),
            ours.exact(EXACT_UPPER, proxy, fitted.upper),
        ]
        if proxy.dtype == torch.float32:
            methods.append(ours.fitting(FIT, proxy, fitted, texts))
        methods.append(peers.forward_backward(BACKWARD, proxy))
        methods.append(peers.per_example(VMAP, proxy, fitted.attention))
        try:
            methods.append(peers.dattri_hooks(DATTRI, proxy, fitted.attention))
        except ImportError as error:
            self.say(f"no row for dattri: {error}")
        if self.kronfluence is not None:
            methods.append(self.kronfluence)
        return methods

    def _agreements(
        self,
        methods: list[Method],
        documents: Documents,
        outcomes: dict[str, Outcome],
        num_round: int,
    ) -> dict[str, Agreement]:
        """Holds scores against the exact ones of all attention layers; slow peers' on fewer documents."""
        by_name = {method.name: method for method in methods}
        exact = by_name[EXACT].score(documents, outcomes[EXACT].micro_batch)
        fewer = self.plan.num_peer_documents
        agreements = {}
        for name, method in by_name.items():
            if name not in _COMPARED:
                continue
            cut = name in _SLOW_PEERS and fewer is not None
            own = material.first(documents, max(fewer or 0, num_round)) if cut else documents
            found = method.score(own, outcomes[name].micro_batch)
            agreements[name] = Agreement.of(found, exact)
            self.say(f"compared: {name}")
        return agreements


def _kronfluence(
    proxy: Proxy,
    fitted: Fitted,
    sample: list[str],
    query: list[str],
    scratch: pathlib.Path,
    say: Callable[[str], None],
) -> Method | None:
    try:
        from tests.benchmarks.influence.kron import Kronfluence
    except ImportError as error:
        say(f"no row for kronfluence: {error}")
        return None
    peer = Kronfluence(KRON, proxy, fitted.attention, scratch)
    documents = material.read_exactly(proxy, sample)
    size = proxy.max_batch_tokens
    passes, decomposition = peer.fit(documents, material.read_exactly(proxy, query), size)
    plain = peers.forward_backward(BACKWARD, proxy).measure(documents, size)
    ratio = passes.cpu_seconds / plain.cpu_seconds
    say(
        f"kronfluence's fit, labels not sampled: {ratio:.2f} of a forward + backward pass (CPU time, once); "
        f"its eigendecompositions took {_show(decomposition)}"
    )
    return peer


def _launches(methods: list[Method], documents: Documents) -> dict[str, float | None]:
    """Counts what one micro-batch of two documents launches, beside a plain training pass."""
    pair = material.first(documents, 2)
    counts = {
        method.name: count_launches(lambda method=method: method.score(pair, 1 << 30))  # type: ignore[misc]
        for method in methods
        if method.name in (EXACT, EXACT_GROUPS, BACKWARD)
    }
    worst = max(counts[EXACT], counts[EXACT_GROUPS])
    return {"launches_over_forward_backward": report.rounded(worst / counts[BACKWARD])}


def _show(cost: clocks.Cost) -> str:
    return f"{cost.seconds:.1f} s ({cost.cpu_seconds:.1f} s of CPU time)"


def _summary(
    outcomes: dict[str, Outcome], agreements: dict[str, Agreement]
) -> dict[str, float | None]:
    values = {
        key: outcomes[top].over(outcomes[bottom])
        for key, (top, bottom) in _RATIOS.items()
        if top in outcomes and bottom in outcomes
    }
    values |= {
        key: outcomes[top].memory_mb / outcomes[bottom].memory_mb
        for key, (top, bottom) in _MEMORY_RATIOS.items()
        if top in outcomes and bottom in outcomes
    }
    values |= {
        key: agreements[name].spearman for key, name in _CORRELATIONS.items() if name in agreements
    }
    return {key: report.rounded(value) for key, value in values.items()}
