"""What the report is made from: plain numbers and texts, gathered by whoever ran the selection.

Everything but `title`, `policy` and `funnel` may be absent (None or empty): its section is then left out. A random
baseline, which scores nothing, fills the funnel, the clusters and the sources, and still gets a page.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from beam_quad.distillation import WeightSums


@dataclasses.dataclass(frozen=True)
class Funnel:
    """Rows and tokens from the input to the selection.

    Attributes:
      read: Rows read; `selected + not_selected + sum(rejected.values())`.
      rejected: Rows rejected, by reason.
      not_selected: Usable rows that were not taken.
      selected: Rows taken.
      tokens_read: Tokens of the usable rows.
      tokens_selected: Tokens of the rows taken.
      tokens_budget: Tokens asked for; None where the run has no budget.
      scored: Examples whose score was computed; None for a policy that scores nothing.
      bad_files: Input files left out as unreadable (`--on_bad_file=reject`).
    """

    read: int
    rejected: Mapping[str, int]
    not_selected: int
    selected: int
    tokens_read: int
    tokens_selected: int
    tokens_budget: int | None
    scored: int | None = None
    bad_files: int = 0


@dataclasses.dataclass(frozen=True)
class Amount:
    """Documents and their tokens."""

    documents: int
    tokens: int


@dataclasses.dataclass(frozen=True)
class Refresh:
    """What changed in the selection that the run went on from.

    Attributes:
      num_bases: The runs before this one.
      kept: What was selected, and is.
      added: What was not.
      left: What is no more, by reason.
      splits: How many splits of the input are `new` or `kept`, and how many of the base are `gone` or `changed`.
    """

    num_bases: int
    kept: Amount
    added: Amount
    left: Mapping[str, Amount]
    splits: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Cluster:
    """One cluster of the corpus and what the selection took of it.

    Attributes:
      cluster_id: Its number.
      documents: Its usable examples.
      tokens: Their tokens.
      selected_documents: Those selected.
      selected_tokens: Their tokens.
      cohesion: Mean cosine similarity of its examples to its center, in [-1, 1].
      mean_influence: Token-weighted mean over its scored examples; None where none was scored.
      words: Its most typical words, best first.
      texts: Its most typical texts, best first; a few, of any length (they are cut and escaped).
      why_no_words: Why there are no words, in words.
      position: Where it is on the map, as from `clustering.layout`; None where it is not drawn.
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
      cluster_id: The cluster it draws from.
      num_blocks: Blocks it had at the start.
      pulls: Blocks pulled, the pilot's included.
      accepted: Blocks accepted, of those pulled.
      mean_influence: Token-weighted mean over its scored examples.
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
      number: 0, 1, ...
      tau: Acceptance threshold, in units of influence; None (or not finite) where everything passed.
      pulls: Blocks pulled in this round.
      accepted: Blocks accepted in this round.
      scored: Examples scored in this round.
      accepted_tokens: Tokens accepted by the end of this round, all rounds together.
      seconds: How long it took; None where unknown.
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
    """Scored examples as columns of one length n. Rows whose score is not finite are ignored.

    Attributes:
      influence: Scores, float64 [n]; higher is better.
      tokens: Tokens of each example, int64 [n].
      cluster_id: Cluster of each example, int64 [n]; all 0 where the policy has no clusters.
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


@dataclasses.dataclass(frozen=True)
class Scores:
    """All scores of the run.

    Attributes:
      scored: Every scored example, the pilot's included.
      selected: The scored examples that stand for the selection: those of accepted blocks, or, where
        `is_census`, exactly the selected ones.
      pilot: The examples of round 0, drawn evenly from every cluster; None where there was no pilot. Weighted by
        the clusters' tokens they stand for a random draw.
      is_census: Whether every selected example was itself scored (instance acceptance, influence top-k).
    """

    scored: ScoredSample
    selected: ScoredSample
    pilot: ScoredSample | None = None
    is_census: bool = False


@dataclasses.dataclass(frozen=True)
class Example:
    """One scored example to look at.

    Attributes:
      example_id: Its id.
      text: Its text, of any length; it is cut and escaped.
      influence: Its score.
      tokens: Its tokens.
      cluster_id: Its cluster; None where there are none.
      is_selected: Whether it was selected; None where unknown.
    """

    example_id: str
    text: str
    influence: float
    tokens: int
    cluster_id: int | None = None
    is_selected: bool | None = None


@dataclasses.dataclass(frozen=True)
class QueryGroup:
    """One query group, with the scores that the pilot's examples have for it alone.

    Attributes:
      name: The group's name.
      documents: Its query texts.
      tokens: Their tokens.
      weight: Its weight in the combined influence.
      pilot: Influence of the pilot's examples on this group, float64 [n], row-aligned with `Scores.pilot` and
        between groups; None where it was not computed.
      halves_agreement: Spearman's rank correlation, in [-1, 1], of the pilot's scores under the two halves of the
        group's texts; None where a half has no text.
      layers: Number and kind of each part of the proxy, and its share of the variance of influence in the pilot; see
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
class Source:
    """A part of the input: a top-level folder, or a file's stem where there are no folders.

    Attributes:
      name: Its name.
      documents: Its usable examples.
      tokens: Their tokens.
      selected_documents: Those selected.
      selected_tokens: Their tokens.
      rejected: Its rejected rows.
    """

    name: str
    documents: int
    tokens: int
    selected_documents: int
    selected_tokens: int
    rejected: int = 0


@dataclasses.dataclass(frozen=True)
class StageTiming:
    """How long one stage of the job took.

    Attributes:
      name: The stage.
      seconds: From its first piece's start to its last one's end.
      planned: Seconds that it takes by the plan; None where there is none.
    """

    name: str
    seconds: float
    planned: float | None = None


@dataclasses.dataclass(frozen=True)
class Notice:
    """Something that the reader must know.

    Attributes:
      message: A line, without a capital and a full stop, with the option that mends it.
      level: "warning" where the result differs from what was asked for, "note" otherwise.
    """

    message: str
    level: Literal["warning", "note"] = "warning"


@dataclasses.dataclass(frozen=True)
class Target:
    """One target of Influence Distillation: a query group, for which a part of the budget was taken.

    Influence here is exact for the landmarks, a uniform sample of the corpus, and predicted from them for all else.

    Attributes:
      name: The group's name.
      selected_documents: Examples that were taken for it.
      selected_tokens: Their tokens.
      influence: Exact influence of each landmark on it, float64 [n].
      tokens: Tokens of each landmark, int64 [n].
      held_out: What the other landmarks predict for each, float64 [n].
      would_take: Which landmarks the target would take by `held_out`, as it takes examples that are no landmarks,
        bool [n]: their exact influence is that of the selection, without the luck that scores which select bring with them.
      agreement: Spearman's rank correlation of `held_out` with `influence`; None where one does not vary.
      taken: Which landmarks the target did take, by their exact influence, bool [n]; None where that is not known.
      shared: How many of its examples the first order selects for it too; None in the first order.
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
        """Tokens of the landmarks that were taken."""
        return 0 if self.taken is None else int(self.tokens[self.taken].sum())

    @property
    def is_predicted(self) -> bool:
        """Whether it took any example by a prediction."""
        return self.selected_tokens > self.exact_tokens


@dataclasses.dataclass(frozen=True)
class Leak:
    """A document that holds a text which no selection may.

    Attributes:
      document: Its shard and row.
      set: Where the text is from.
      item: Its file and row.
      matched: The longest passage that both have: words, without case and punctuation.
      item_text: The text, or its beginning.
      share: Share of its words that the document has.
    """

    document: str
    set: str
    item: str
    matched: str
    item_text: str
    share: float


@dataclasses.dataclass(frozen=True)
class Paraphrase:
    """A selected document that may say what a text says which no selection may hold.

    Attributes:
      document: Its shard and row.
      set: Where the text is from.
      item: Its file and row.
      text: The document, or its beginning.
      item_text: The text, or its beginning.
      cosine: Cosine of their embeddings.
      share: Share of its distinct words that the document has.
    """

    document: str
    set: str
    item: str
    text: str
    item_text: str
    cosine: float
    share: float


@dataclasses.dataclass(frozen=True)
class ReportData:
    """Everything that the page shows.

    Attributes:
      title: What was run, for the page's head, such as "Quad selection".
      policy: The policy in words, such as "quad: bandit over clusters, block acceptance".
      funnel: Rows and tokens.
      subtitle: One more line: the output directory, the date.
      verdict: What was selected, and whether that is better than a random draw; see `judgements.verdict`.
      notices: Warnings and notes, most important first.
      clusters: All clusters, in any order; several thousand are fine.
      arms: All arms of the bandit.
      rounds: All rounds, the pilot first.
      weights: The weights of the selected examples; None where there are none.
      scores: All scores.
      best: The highest-scored examples, best first.
      worst: The lowest-scored examples, worst first.
      best_by_target: The landmarks of highest influence on each target, best first, by its name.
      targets: The targets of Influence Distillation.
      query_groups: The query groups; their section is shown where there are two or more, or where the
        agreement of their halves is known.
      sources: Parts of the input.
      timings: Stages, in the order of the job.
      refresh: What changed in the selection that the run went on from.
      leaks: Some of the documents that hold a text which no selection may; None where nothing was looked for.
      shares: How shares of the budget were met, as the manifest says it; None without shares.
      paraphrases: Selected documents that may be paraphrases of such a text, the closest first; None where none was looked for.
      configuration: Options and their values, shown as text.
      versions: Packages, models and fingerprints, shown as text.
    """

    title: str
    policy: str
    funnel: Funnel
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
    best_by_target: Mapping[str, tuple[Example, ...]] | None = None
    targets: tuple[Target, ...] | None = None
    query_groups: tuple[QueryGroup, ...] | None = None
    sources: tuple[Source, ...] | None = None
    timings: tuple[StageTiming, ...] | None = None
    refresh: Refresh | None = None
    leaks: tuple[Leak, ...] | None = None
    shares: Mapping[str, Any] | None = None
    paraphrases: tuple[Paraphrase, ...] | None = None
    configuration: Mapping[str, object] | None = None
    versions: Mapping[str, object] | None = None
