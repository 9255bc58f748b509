"""Input of the report: plain numbers and texts, collected by the run.

Everything except `title` and `manifest` may be absent (None or empty); its section is then left out. A random baseline, which
scores nothing, still gets a page with the counts of the manifest, the clusters and the sources.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from beam_quad.distillation import WeightSums
from beam_quad.selection import SourceCounts


@dataclasses.dataclass(frozen=True)
class Cluster:
    """One cluster of the corpus and its selected part.

    Attributes:
      documents: Usable examples, of which `tokens` are the tokens.
      cohesion: Mean cosine similarity of the examples to the center, in [-1, 1].
      mean_influence: Token-weighted mean over the scored examples; None if none was scored.
      words: Most typical words, best first.
      texts: A few of the most typical texts, best first, of any length (they are cut and escaped).
      why_no_words: The reason why there are no words.
      position: Position on the map, from `clustering.layout`; None if the cluster is not drawn.
    """

    cluster_id: int
    documents: int
    tokens: int
    selected_documents: int
    selected_tokens: int
    cohesion: float | None = None
    mean_influence: float | None = None
    words: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    why_no_words: str = ""
    position: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Arm:
    """One arm at the end of the bandit.

    Attributes:
      num_blocks: Number of blocks at the start.
      pulls: Blocks pulled, including those of the pilot; `accepted` of them were accepted.
      mean_influence: Token-weighted mean over the scored examples.
      tokens: Tokens of the whole cluster.
    """

    cluster_id: int
    num_blocks: int
    pulls: int
    accepted: int
    mean_influence: float
    tokens: int


@dataclasses.dataclass(frozen=True)
class Round:
    """One round of the bandit; number 0 is the pilot.

    Attributes:
      tau: Acceptance threshold, in units of influence; None (or not finite) if everything passed.
      pulls: Blocks pulled in this round, of which `accepted` were accepted; `scored` counts examples.
      accepted_tokens: Tokens accepted in all rounds up to the end of this one.
      seconds: Duration; None if unknown.
    """

    number: int
    tau: float | None
    pulls: int
    accepted: int
    scored: int
    accepted_tokens: int
    seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class ScoredSample:
    """Scored examples as columns of length n. Rows without a finite score are ignored.

    Attributes:
      influence: Scores, float64 [n]; higher is better.
      tokens: Tokens of each example, int64 [n].
      cluster_id: Cluster of each example, int64 [n]; all 0 if the policy has no clusters.
    """

    influence: np.ndarray
    tokens: np.ndarray
    cluster_id: np.ndarray

    def __post_init__(self) -> None:
        lengths = {len(self.influence), len(self.tokens), len(self.cluster_id)}
        if len(lengths) > 1:
            raise ValueError(
                f"influence, tokens and cluster_id must have one length, got {sorted(lengths)}"
            )

    def where(self, kept: np.ndarray) -> "ScoredSample":
        """Keeps the rows of a mask, bool [n]."""
        return ScoredSample(self.influence[kept], self.tokens[kept], self.cluster_id[kept])


@dataclasses.dataclass(frozen=True)
class Scores:
    """All scores of the run.

    Attributes:
      scored: All scored examples, including those of the pilot.
      selected: The scored examples that represent the selection: those of accepted blocks or, if `is_census`, exactly the
        selected examples.
      pilot: The examples of round 0, drawn evenly from every cluster; None without a pilot. Weighted by the clusters'
        tokens they represent a random draw.
      is_census: Whether every selected example was scored itself (instance acceptance, influence top-k).
    """

    scored: ScoredSample
    selected: ScoredSample
    pilot: ScoredSample | None = None
    is_census: bool = False


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of an example, and the numbers behind it.

    Attributes:
      reason: Why it was not selected, a reason of the decisions; None if it was selected.
      twin: The document that is nearly the same and ranks higher, as `SHARD#ROW`.
      round: Round in which its block was accepted or, if it was not, pulled.
      block_influence: The influence by which its block was accepted.
      worth: The influence, known or estimated, by which it was selected.
      target: The target that it was selected for.
      is_kept: Whether it stays because the last run had selected it.
      is_accepted: Whether a bandit accepted it, or it only fills the budget up; None if it was selected by its rank.
      rank: Its rank, by which the budget was cut.
      cut: The rank at which the budget, or its share of it, ends.
    """

    reason: str | None = None
    twin: str | None = None
    round: int | None = None
    block_influence: float | None = None
    worth: float | None = None
    target: str | None = None
    is_kept: bool = False
    is_accepted: bool | None = None
    rank: float | None = None
    cut: float | None = None


@dataclasses.dataclass(frozen=True)
class Example:
    """One scored example to show.

    Attributes:
      text: Text of any length; it is cut and escaped.
      cluster_id: Cluster; None without clusters.
      block_influence: Mean influence of its block's scored examples; None without a bandit.
      key: Key of the example, by which its outcome is found.
    """

    example_id: str
    text: str
    influence: float
    tokens: int
    cluster_id: int | None = None
    block_influence: float | None = None
    key: int = 0


@dataclasses.dataclass(frozen=True)
class QueryGroup:
    """One query group, with the scores of the pilot's examples for this group alone.

    Attributes:
      documents: Number of query texts, of which `tokens` are the tokens.
      weight: Weight in the combined influence.
      pilot: Influence of the pilot's examples on this group, float64 [n], row-aligned with `Scores.pilot` and
        between groups; None if not computed.
      halves_agreement: Spearman's rank correlation, in [-1, 1], of the pilot's scores under the two halves of the
        group's texts; None if a half has no text.
      layers: Number, kind and share of the pilot's variance of influence for each part of the proxy; see
        `scoring.layers`.
    """

    name: str
    documents: int
    tokens: int
    weight: float = 1.0
    pilot: np.ndarray | None = None
    halves_agreement: float | None = None
    layers: tuple[tuple[int, str, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class StageTiming:
    """The duration of one stage of the job.

    Attributes:
      seconds: Time from the start of the first piece to the end of the last.
      planned: Its planned cost, as `pipelines.progress` records it: fields of a `StageCost`, and `seconds`; empty without a
        plan.
      documents: Examples that the stage counted; None if it counts none.
      traffic: Bytes that the run counted, by `artifacts.traffic.Kind`; a kind of which there were none is absent.
      is_earlier: Whether an earlier run made its artifacts, such as the base of a refresh.
    """

    name: str
    seconds: float
    planned: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    documents: int | None = None
    traffic: Mapping[str, int] = dataclasses.field(default_factory=dict)
    is_earlier: bool = False


@dataclasses.dataclass(frozen=True)
class Notice:
    """A notice to the reader.

    Attributes:
      message: One line without initial capital or full stop, with the option that fixes the problem.
      level: "warning" if the result differs from the request, "note" otherwise.
    """

    message: str
    level: Literal["warning", "note"] = "warning"


@dataclasses.dataclass(frozen=True)
class Target:
    """One target of Influence Distillation: a query group with its part of the budget.

    Influence is exact for the landmarks, a uniform sample of the corpus, and predicted from them for all other examples.

    Attributes:
      influence: Exact influence of each landmark on the target, float64 [n].
      tokens: Tokens of each landmark, int64 [n].
      held_out: Influence of each landmark predicted from the other landmarks, float64 [n].
      would_take: Landmarks that the target would select by `held_out`, as it selects other examples, bool [n]. Their exact
        influence estimates the selection's without the upward bias of scores used for selecting.
      agreement: Spearman's rank correlation of `held_out` with `influence`; None if one of them does not vary.
      taken: Landmarks that the target selected by their exact influence, bool [n]; None if unknown.
      shared: Number of its examples that the first order selects for it too; None in the first order.
    """

    name: str
    selected_documents: int
    selected_tokens: int
    influence: np.ndarray
    tokens: np.ndarray
    held_out: np.ndarray
    would_take: np.ndarray
    agreement: float | None = None
    taken: np.ndarray | None = None
    shared: int | None = None

    def __post_init__(self) -> None:
        columns = (self.influence, self.tokens, self.held_out, self.would_take)
        if len(lengths := {len(column) for column in columns}) > 1:
            raise ValueError(
                f"influence, tokens, held_out and would_take must have one length, got {sorted(lengths)}"
            )

    @property
    def exact_tokens(self) -> int:
        """Tokens of the selected landmarks."""
        return 0 if self.taken is None else int(self.tokens[self.taken].sum())

    @property
    def is_predicted(self) -> bool:
        """Whether any example was selected by predicted influence."""
        return self.selected_tokens > self.exact_tokens


@dataclasses.dataclass(frozen=True)
class ReportData:
    """Everything that the page shows.

    Attributes:
      title: Name of the run for the page's head, such as "Quad selection".
      manifest: The manifest: counts, options and versions are shown as they stand there.
      subtitle: One more line, with the output directory and the date.
      verdict: Summary of the selection, and whether it beats a random draw; see `judgements.verdict`.
      notices: Warnings and notes, most important first.
      clusters: All clusters, in any order; several thousand are fine.
      rounds: All rounds, the pilot first.
      best: The highest-scored examples, best first.
      worst: The lowest-scored examples, worst first.
      outcomes: What became of the examples to show, by key.
      best_by_target: The landmarks of highest influence on each target, best first, by target.
      query_groups: The query groups; their section is shown if there are two or more, or if the agreement of their halves is
        known.
      sources: Parts of the input, by name: top-level folders, or stems of files if there are no folders.
      timings: Stages, in the order of the job.
      leaks: Some of the documents that contain a forbidden text: the `document`, as `SHARD#ROW`, and the fields of its
        `FoundLeak`.
      paraphrases: Selected documents that may paraphrase a forbidden text, closest first: rows of `FlagParaphrases.read`.
    """

    title: str
    manifest: Mapping[str, Any]
    subtitle: str = ""
    verdict: str = ""
    notices: tuple[Notice, ...] = ()
    clusters: tuple[Cluster, ...] | None = None
    arms: tuple[Arm, ...] | None = None
    rounds: tuple[Round, ...] | None = None
    weights: WeightSums | None = None
    scores: Scores | None = None
    best: tuple[Example, ...] | None = None
    worst: tuple[Example, ...] | None = None
    outcomes: Mapping[str, Outcome] = dataclasses.field(default_factory=dict)
    best_by_target: Mapping[str, tuple[Example, ...]] | None = None
    targets: tuple[Target, ...] | None = None
    query_groups: tuple[QueryGroup, ...] | None = None
    sources: Mapping[str, SourceCounts] | None = None
    timings: tuple[StageTiming, ...] | None = None
    leaks: Sequence[Mapping[str, Any]] = ()
    paraphrases: Sequence[Mapping[str, Any]] = ()
