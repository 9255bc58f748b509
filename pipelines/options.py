"""Flags of the Quad pipeline."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Literal

from beam_quad.bandit import ACCEPTANCES, Accepts
from beam_quad.errors import UsageError
from beam_quad.records import Budget
from pipelines import flags, parsing, run_options
from pipelines.flags import changed, flag
from pipelines.run_options import BLOCKS_PER_CLUSTER, LAYERS, RunOptions

POLICIES = (
    "quad", "random", "perplexity", "influence_top_k", "cluster_uniform", "dsir", "ngram", "similarity",
    "cluster_histogram", "loss_drop", "score_column",
)  # fmt: skip
# Policies by their needs: the query set, gradients, the proxy (or its tokenizer), and clusters.
_OF_QUERY = (
    "quad", "influence_top_k", "dsir", "ngram", "similarity", "cluster_histogram", "loss_drop",
)  # fmt: skip
_OF_INFLUENCE = ("quad", "influence_top_k")
_OF_PROXY = ("quad", "influence_top_k", "perplexity", "loss_drop", "ngram")
_OF_CLUSTERS = ("quad", "cluster_uniform", "cluster_histogram")
SHORTLIST = "shortlist"
_OF_THE_BANDIT = ("tau", "arms_per_round", "samples_per_pull")

_models = functools.partial(flag, group="models")
_selection = functools.partial(flag, group="selection")


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuadOptions(RunOptions):
    """The flags of `pipelines.quad`, checked one by one; every default is the recommended one."""

    COMMAND = "select"
    SUMMARY = "Selects pre-training data by influence and diversity (Quad)."
    GROUPS = ("data", "models", "selection", "refresh", "running")

    embedder: str = changed(
        RunOptions,
        "embedder",
        default=None,
        more="Default `static`; `minilm` with a bandit. A shortlist uses clusters only for `--max_share_per_cluster` and the report, "
        "so the cheapest is enough.",
    )
    layers: str = changed(
        RunOptions,
        "layers",
        default=None,
        more=f"Default `all+head`; `attention` with a bandit. {LAYERS}",
    )
    budget_tokens: int = _selection(
        "tokens to select in all, such as 30B or 1e9; +50M: 50M more than --base",
        is_required=True,
        is_common=True,
        reads=parsing.total,
        at_least=1,
        why="; it is how much to select",
    )
    policy: str = _selection(
        "quad, or a baseline, which takes the groups of a query set together (influence_top_k: one group)",
        "quad",
        choices=POLICIES,
        more="`ngram`: n-grams of the proxy's own tokens; `similarity`: cosine of embeddings to the query set (BETR, RDS); "
        "`cluster_histogram`: clusters sampled by the query set's histogram (CRISP); `loss_drop`: fall of the loss when the proxy is "
        "tuned on the query set (CoLoR); `score_column`: a score in the input.",
    )
    similarity: Literal["best", "mean"] = _selection(
        "with --policy=similarity: cosine to the nearest query text, or the mean of the cosines to all",
        "best",
    )
    score_column: str | None = _selection(
        "with --policy=score_column: column of the score, or field of a struct, as meta.score; higher is taken first",
        more="A row without a finite number is rejected.",
    )
    num_clusters: int | None = _selection(
        "number of clusters; default sqrt(examples / 2), 8 to 10000",
        reads=parsing.count,
        at_least=1,
        more="Clusters are the bandit's arms.",
    )
    max_cluster_share: float = _selection(
        "a cluster with a larger share of the documents is split again", 0.05, is_share=True
    )
    num_rounds: int = _selection(
        "rounds after the pilot, at most 50", 16, more="The pilot pulls every arm once."
    )
    arms_per_round: int | None = _selection(
        "arms pulled in a round; default as many as the budget asks for", at_least=1
    )
    samples_per_pull: int | None = _selection(
        "examples scored in a pull; default 4 to 10 by size", at_least=1
    )
    blocks_per_cluster: int = _selection(
        "maximum number of blocks of a cluster, a power of 2", BLOCKS_PER_CLUSTER
    )
    acceptance: str = _selection(
        lambda: (
            f"{SHORTLIST}: the best of a shortlist, by influence and n-grams; or a bandit, where a good pull accepts: "
            + "; ".join(f"{name}: {rule.summary}" for name, rule in ACCEPTANCES.items())
        ),
        SHORTLIST,
        choices=lambda: (*ACCEPTANCES, SHORTLIST),
        more="`shortlist` scores every document by n-grams of the proxy's tokens, and computes influence for the best four budgets of "
        "them. A bandit over clusters, the paper's, scores far fewer documents and selects less well. `propagate` takes the documents "
        "that their cluster's scored ones predict to be best, by kernel ridge regression: on the demo's documents 12 to 20 % more "
        "influence than `block`, with no more scored.",
    )
    shortlist: float = _selection(
        "size of the shortlist, in budgets",
        4.0,
        at_least=1,
        why="; it is in budgets",
        more="Influence finds more in a longer list, the more the proxy knows beyond n-grams, and costs as many passes of the proxy. "
        "2 is enough for a proxy of a few million parameters.",
    )
    tau: float | None = _selection(
        "fixed threshold on influence; default the water level, above which the rest of the corpus just fills the budget",
        pattern=rf"-?{flags.NUMBER}",
    )
    alpha: float = _selection("weight of exploration, in standard errors of one pull", 0.5)
    max_share_per_cluster: float = _selection(
        "maximum share of the budget from one cluster",
        1.0,
        is_share=True,
        more="A lower one trades influence for diversity.",
    )
    normalize: bool = _models(
        "divide influence by the gradient's norm; default with --acceptance=shortlist"
    )

    @property
    def is_shortlist(self) -> bool:
        """Whether examples are selected from a shortlist, without a bandit."""
        return self.policy == "quad" and self.acceptance == SHORTLIST

    @property
    def shortlist_budget(self) -> Budget:
        """What the shortlist holds."""
        return Budget(math.ceil(self.shortlist * self.budget_tokens))

    @property
    def needs_query(self) -> bool:
        """Whether the policy uses the query set."""
        return self.policy in _OF_QUERY

    @property
    def needs_proxy(self) -> bool:
        """Whether the policy passes texts through the proxy model."""
        return self.policy in _OF_PROXY

    @property
    def needs_embeddings(self) -> bool:
        """Whether the policy uses embeddings."""
        return self.needs_clusters or self.policy == "similarity"

    @property
    def needs_clusters(self) -> bool:
        """Whether the policy uses clusters."""
        return self.policy in _OF_CLUSTERS

    @property
    def needs_influence(self) -> bool:
        """Whether the policy computes influence."""
        return self.policy in _OF_INFLUENCE

    def described(self, num_documents: int) -> str:
        """As `RunOptions.described`."""
        words = f"{self.policy}, {self.budget_tokens:,} tokens"
        return f"{words}, {self.acceptance} acceptance" if self.policy == "quad" else words

    @property
    def ranking_column(self) -> str | None:
        """The column of the ranking, or None."""
        return self.score_column

    def check(self) -> None:
        """Refuses invalid options; see `RunOptions.check`."""
        super().check()
        if self.needs_query and not self.query:
            raise UsageError(f"--policy={self.policy} needs --query: the texts to become good at")
        if self.proxy_model is None and self.needs_proxy:
            raise UsageError(f"--policy={self.policy} needs --proxy_model: a folder or hub id")
        if self.policy == "score_column" and not self.score_column:
            raise UsageError(
                "--policy=score_column needs --score_column: the column of the score, higher is taken first"
            )
        if self.score_column and self.policy != "score_column":
            raise UsageError(
                f"--score_column is for --policy=score_column, and --policy={self.policy} does not read it; leave one out"
            )
        if self.weighted and not self.needs_influence:
            raise UsageError(
                f"--weighted needs influence, which --policy={self.policy} does not compute"
            )
        if (self.share or self.share_by) and self.policy == "quad" and not self.is_shortlist:
            self._check_shares_of_a_bandit()
        given = [name for name in _OF_THE_BANDIT if getattr(self, name) is not None]
        if self.is_shortlist and given:
            raise UsageError(
                f"--{given[0]} is for the bandit; leave it out, or pass --acceptance=block with it"
            )
        blocks = self.blocks_per_cluster
        if blocks < 1 or blocks & (blocks - 1):
            raise UsageError(f"--blocks_per_cluster must be a power of 2, got {blocks}")

    def _check_shares_of_a_bandit(self) -> None:
        if ACCEPTANCES[self.acceptance].accepts is Accepts.EXAMPLES:
            raise UsageError(
                f"--acceptance={self.acceptance} selects only documents that it scored, of which a share may have none; pass "
                "--acceptance=propagate or shortlist with --share"
            )
        if self.base is not None and not self.reselect:
            raise UsageError(
                "--share with a bandit chooses among all documents; pass --reselect with --base, or --acceptance=shortlist"
            )


def parse(argv: Sequence[str]) -> tuple[QuadOptions, list[str]]:
    """Parses and checks a command line; see `run_options.parse`."""
    values, rest = run_options.parse(QuadOptions, argv)
    is_shortlist = values["policy"] == "quad" and values["acceptance"] == SHORTLIST
    if values["embedder"] is None:
        # A shortlist uses clusters only for caps and the report, so a cheap embedder is enough.
        values["embedder"] = "static" if is_shortlist else "minilm"
    if values["layers"] is None:
        values["layers"] = "all+head" if is_shortlist else "attention"
    if values["normalize"] is None:
        values["normalize"] = is_shortlist
    options = QuadOptions(**values)
    options.check()
    return options, rest
