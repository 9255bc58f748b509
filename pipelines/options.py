"""Flags of the Quad pipeline."""

import argparse
import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

from beam_quad.bandit import ACCEPTANCES, Accepts
from beam_quad.errors import UsageError
from beam_quad.records import Budget
from pipelines import parsing, run_options
from pipelines.parsing import SWITCH
from pipelines.run_options import BLOCKS_PER_CLUSTER, RunOptions

POLICIES = (
    "quad", "random", "perplexity", "influence_top_k", "cluster_uniform", "dsir", "ngram", "similarity",
    "cluster_histogram", "loss_drop", "score_column",
)  # fmt: skip
# Those that look at the query set, take gradients, pass texts through the proxy (or its tokenizer), and look at clusters.
_OF_QUERY = (
    "quad", "influence_top_k", "dsir", "ngram", "similarity", "cluster_histogram", "loss_drop",
)  # fmt: skip
_OF_INFLUENCE = ("quad", "influence_top_k")
_OF_PROXY = ("quad", "influence_top_k", "perplexity", "loss_drop", "ngram")
_OF_CLUSTERS = ("quad", "cluster_uniform", "cluster_histogram")
SIMILARITIES = ("best", "mean")
SHORTLIST = "shortlist"
_OF_THE_BANDIT = ("tau", "arms_per_round", "samples_per_pull")


@dataclasses.dataclass(frozen=True)
class QuadOptions(RunOptions):
    """The flags of `pipelines.quad`, checked one by one; see `parser` for what each means."""

    budget_tokens: int
    policy: str
    similarity: Literal["best", "mean"]
    score_column: str | None
    num_clusters: int | None
    max_cluster_share: float
    num_rounds: int
    arms_per_round: int | None
    samples_per_pull: int | None
    blocks_per_cluster: int
    acceptance: str
    tau: float | None
    alpha: float
    max_share_per_cluster: float
    normalize: bool
    shortlist: float

    @property
    def is_shortlist(self) -> bool:
        """Whether examples are taken from a shortlist, without a bandit."""
        return self.policy == "quad" and self.acceptance == SHORTLIST

    @property
    def shortlist_budget(self) -> Budget:
        """What the shortlist holds."""
        return Budget(math.ceil(self.shortlist * self.budget_tokens))

    @property
    def needs_query(self) -> bool:
        """Whether the policy looks at the query set."""
        return self.policy in _OF_QUERY

    @property
    def needs_proxy(self) -> bool:
        """Whether the policy passes texts through the proxy model."""
        return self.policy in _OF_PROXY

    @property
    def needs_embeddings(self) -> bool:
        """Whether the policy looks at embeddings."""
        return self.needs_clusters or self.policy == "similarity"

    @property
    def needs_clusters(self) -> bool:
        """Whether the policy looks at clusters."""
        return self.policy in _OF_CLUSTERS

    @property
    def needs_influence(self) -> bool:
        """Whether the policy computes influence."""
        return self.policy in _OF_INFLUENCE

    @property
    def ranking_column(self) -> str | None:
        """The column that the policy ranks by, or None."""
        return self.score_column

    def check(self) -> None:
        """Refuses what cannot be; see `RunOptions.check`."""
        super().check()
        if self.budget_tokens < 1:
            raise UsageError(
                f"--budget_tokens must be at least 1, got {self.budget_tokens}; it is how much to select"
            )
        if self.needs_query and not self.query:
            raise UsageError(f"--policy={self.policy} needs --query: the texts to become good at")
        if self.proxy_model is None and self.needs_proxy:
            raise UsageError(f"--policy={self.policy} needs --proxy_model: a folder or hub id")
        for name in ("num_clusters", "samples_per_pull", "arms_per_round"):
            self.check_at_least_one(name)
        if not 0 < self.max_cluster_share <= 1:
            raise UsageError(
                f"--max_cluster_share must lie in (0, 1], got {self.max_cluster_share}"
            )
        if not 0 < self.max_share_per_cluster <= 1:
            raise UsageError(
                f"--max_share_per_cluster must lie in (0, 1], got {self.max_share_per_cluster}"
            )
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
        if not 1 <= self.shortlist < math.inf:
            raise UsageError(f"--shortlist must be at least 1 budget, got {self.shortlist}")
        given = [name for name in _OF_THE_BANDIT if getattr(self, name) is not None]
        if self.is_shortlist and given:
            raise UsageError(
                f"--{given[0]} is for the bandit; leave it out, or pass --acceptance=block with it"
            )
        if self.near_duplicates == "drop" and not _ranks(self.policy, self.acceptance):
            raise UsageError(
                f"--acceptance={self.acceptance} takes blocks as they are; leave out --near_duplicates=drop, or pass "
                "--acceptance=propagate or shortlist with it"
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
    """Parses a command line.

    Args:
      argv: Arguments without the program's name.

    Returns:
      Our options, and the arguments for Beam, each of which Beam or its job server knows.

    Raises:
      UsageError: If a flag is unknown, lacks its value, or has one that cannot be.
    """
    values, rest = parsing.parse(parser(), argv)
    is_shortlist = values["policy"] == "quad" and values["acceptance"] == SHORTLIST
    if values["embedder"] is None:
        # A shortlist looks at clusters for caps and for the report alone.
        values["embedder"] = "static" if is_shortlist else "minilm"
    if values["layers"] is None:
        values["layers"] = "all+head" if is_shortlist else "attention"
    if values["normalize"] is None:
        values["normalize"] = is_shortlist
    if values["near_duplicates"] is None:
        ranks = _ranks(values["policy"], values["acceptance"])
        values["near_duplicates"] = "drop" if ranks else "keep"
    options = QuadOptions(**values)
    options.check()
    return options, rest


def _ranks(policy: str, acceptance: str) -> bool:
    """Whether a selection is the best of a ranking, in which what is left out gives way to the next."""
    return (
        policy != "quad"
        or acceptance == SHORTLIST
        or ACCEPTANCES[acceptance].accepts is Accepts.PREDICTIONS
    )


def parser() -> argparse.ArgumentParser:
    """Makes the parser of `pipelines.quad`; every default is the recommended one."""
    result = parsing.Parser(
        prog="beam-quad select",
        description="Selects pre-training data by influence and diversity (Quad).",
        epilog="Any other option goes to Beam, such as --runner; see the README.",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    run_options.add_data(result)
    models = run_options.add_models(result, embedder=None, curvature="ekfac", layers=None)
    _add_scoring(models)
    _add_selection(result.add_argument_group("selection"))
    run_options.add_refresh(result)
    run_options.add_running(result)
    return result


def _add_scoring(group: Any) -> None:
    group.add_argument(
        "--normalize",
        **SWITCH | {"default": None},
        help="divide influence by the gradient's norm; default with --acceptance=shortlist",
    )


def _add_selection(group: Any) -> None:
    add = group.add_argument
    add(
        "--budget_tokens",
        type=parsing.total,
        required=True,
        help="tokens to select in all, such as 30B or 1e9; +50M: so many more than --base",
    )
    add(
        "--policy",
        choices=POLICIES,
        default="quad",
        help="quad, or a baseline, which takes the groups of a query set together (influence_top_k: one group)",
    )
    add(
        "--similarity",
        choices=SIMILARITIES,
        default="best",
        help="of --policy=similarity: cosine to the nearest query text, or the mean of the cosines to all",
    )
    add(
        "--score_column",
        help="of --policy=score_column: column of a number, or field of a struct, as meta.score; higher is taken first",
    )
    add("--num_clusters", type=parsing.count, help="K; default sqrt(examples / 2), 8 to 10000")
    add("--max_cluster_share", type=float, default=0.05, help="a larger cluster is split again")
    add("--num_rounds", type=int, default=16, help="rounds after the pilot, at most 50")
    add("--arms_per_round", type=int, help="arms to pull; default as many as the budget asks for")
    add("--samples_per_pull", type=int, help="examples scored in a pull; default 4 to 10 by size")
    add(
        "--blocks_per_cluster",
        type=int,
        default=BLOCKS_PER_CLUSTER,
        help="most blocks of a cluster, a power of 2",
    )
    gives = "; ".join(f"{name}: {rule.summary}" for name, rule in ACCEPTANCES.items())
    add(
        "--acceptance",
        choices=(*ACCEPTANCES, SHORTLIST),
        default=SHORTLIST,
        help=f"{SHORTLIST}: the best of a shortlist, by influence and n-grams; or a bandit, of which a good pull gives: {gives}",
    )
    add("--shortlist", type=float, default=2.0, help="budgets in the shortlist")
    add("--tau", type=float, help="fixed threshold on influence; default the water level")
    add("--alpha", type=float, default=0.5, help="exploration, in errors of one pull")
    add(
        "--max_share_per_cluster", type=float, default=1.0, help="most of the budget from a cluster"
    )
    run_options.add_near_duplicates(
        group,
        None,
        "; default, but keep with --acceptance=block, instance or cluster, which take blocks as they are",
    )
    run_options.add_reserve(group)
