"""The scores of earlier runs, used as a prior for the clusters of new documents."""

import dataclasses
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from beam_quad.bandit.arms import ArmPrior, PullTable
from beam_quad.bandit.posterior import VarianceComponents
from beam_quad.columns import look_up

Array = np.ndarray[Any, np.dtype[Any]]

_COLUMNS = ("cluster", "tokens", "influence", "residual")


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """The examples scored by the runs so far. An additive statistic.

    Attributes:
      key: Ascending and distinct, uint64 [n].
      cluster: int64 [n]; -1 for an example drawn for a share, which does not represent its cluster.
      tokens: int64 [n].
      influence: float64 [n]; nan if an example could not be scored.
      residual: Influence less the token-weighted mean of the example's pull, float64 [n]; nan outside pilots.
      squares: Sum of squared deviations of pilot examples from the unweighted mean of their pull.
      freedom: Degrees of freedom of `squares`.
    """

    key: Array
    cluster: Array
    tokens: Array
    influence: Array
    residual: Array
    squares: float
    freedom: int

    @classmethod
    def of(cls, scored: Mapping[str, Array], pilot: PullTable) -> "Evidence":
        """Collects the scores of one run.

        Args:
          scored: Scored examples of the run sorted by key (see `bandit.scored`), including the pilot's.
          pilot: The pulls of the run's pilot.
        """
        order = np.argsort(pilot.keys)
        residuals = (pilot.influence - pilot.means[pilot.pull])[order]
        squares, freedom = pilot.pooled_squares()
        return cls(
            scored["key"],
            np.asarray(scored["cluster"], np.int64),
            np.asarray(scored["tokens"], np.int64),
            scored["influence"],
            look_up(pilot.keys[order], residuals, scored["key"], np.nan),
            squares,
            freedom,
        )

    @classmethod
    def of_pilot(cls, pilot: PullTable) -> "Evidence":
        """Collects the scores of a pilot."""
        order = np.argsort(pilot.keys)
        scored = {
            "key": pilot.keys[order],
            "cluster": pilot.cluster_id[pilot.pull][order],
            "tokens": pilot.tokens[order],
            "influence": pilot.influence[order],
        }
        return cls.of(scored, pilot)

    @classmethod
    def of_drawn(cls, keys: Array, tokens: Array, influence: Array) -> "Evidence":
        """Collects the scores of examples drawn for shares. Arguments as for the attributes."""
        nothing = np.full(len(keys), np.nan)
        return cls(keys, np.full(len(keys), -1), tokens, influence, nothing, 0.0, 0)

    def __add__(self, other: "Evidence") -> "Evidence":
        columns = {
            name: np.concatenate([getattr(self, name), getattr(other, name)])
            for name in ("key", *_COLUMNS)
        }
        # Runs give the same example the same score, so either copy will do, if it represents its cluster.
        order = np.lexsort((columns["cluster"] < 0, columns["key"]))
        key, first = np.unique(columns.pop("key")[order], return_index=True)
        columns = {name: column[order][first] for name, column in columns.items()}
        squares, freedom = self.squares + other.squares, self.freedom + other.freedom
        return Evidence(key, **columns, squares=squares, freedom=freedom)

    @property
    def deviation(self) -> float:
        """Standard deviation of influence within clusters, pooled over the pilots; 0 if no pull has two examples."""
        return math.sqrt(self.squares / self.freedom) if self.freedom else 0.0

    @property
    def residuals(self) -> Array:
        """Deviations of pilot examples from the mean of their pull, ascending, float64 [m]."""
        return np.sort(self.residual[np.isfinite(self.residual)])

    @property
    def unscorable(self) -> Array:
        """Keys of the unscorable examples, ascending, uint64 [m]."""
        return self.key[np.isnan(self.influence)]

    @property
    def has_clusters(self) -> bool:
        """Whether any example represents its cluster."""
        return bool((self.cluster >= 0).any())

    def of_clusters(self) -> dict[str, Array]:
        """Returns the examples that represent their clusters: `key`, ascending, `cluster`, `tokens`, `influence`."""
        at = np.flatnonzero(self.cluster >= 0)
        return {name: getattr(self, name)[at] for name in ("key", "cluster", "tokens", "influence")}

    def sums(self, num_clusters: int) -> tuple[Array, Array, Array, Array]:
        """Sums the scored examples that represent their clusters.

        Returns:
          Examples, tokens, squares of tokens, and influence times tokens: four float64 [num_clusters].
        """
        known = np.isfinite(self.influence) & (self.cluster >= 0)
        cluster, tokens = self.cluster[known], self.tokens[known].astype(np.float64)
        columns = (np.ones(len(tokens)), tokens, tokens**2, tokens * self.influence[known])
        examples, total, squares, weighted = (
            np.bincount(cluster, column, num_clusters) for column in columns
        )
        return examples, total, squares, weighted

    def components(self) -> VarianceComponents:
        """Estimates the variance of influence within and between clusters."""
        _, tokens, squares, weighted = self.sums(int(self.cluster.max(initial=-1)) + 1)
        known = tokens > 0
        errors = squares[known] / tokens[known] ** 2
        return VarianceComponents.of_means(weighted[known] / tokens[known], errors, self.deviation)


@dataclasses.dataclass(frozen=True, eq=False)
class Prior:
    """Knowledge of the arms before the first pull.

    New documents of a cluster may differ from its scored ones. All earlier scores of a cluster together therefore weigh at
    most as much as one pull: one pull of new documents weighs about as much, and further pulls outweigh them.

    Args:
      evidence: The examples scored before.
      num_new: Documents that the bandit plays over, at least 1.
      num_documents: All documents, new and old.
      num_samples: Examples that a pull would score if the bandit played over all documents, at least 1.
    """

    evidence: Evidence
    num_new: int
    num_documents: int
    num_samples: int

    @property
    def share(self) -> Fraction:
        """The share of new documents among all documents."""
        # Exact: with a rounded share, `pilot` could pull one arm more.
        return Fraction(self.num_new, self.num_documents)

    def arms(self, num_clusters: int, samples_per_pull: int) -> ArmPrior:
        """Makes the prior of every arm for pulls of `samples_per_pull` examples."""
        examples, tokens, squares, weighted = self.evidence.sums(num_clusters)
        # Scales the evidence of a cluster down to the examples of one pull.
        share = np.minimum(1.0, self.num_samples / np.maximum(examples, 1))
        return ArmPrior(
            pulls=examples * share / samples_per_pull,
            tokens=tokens * share,
            squares=squares * share,
            weighted=weighted * share,
        )

    def pilot(self, examples: Array, can_pull: Array, ties: Array) -> Array:
        """Chooses the arms of the pilot, those with the most new documents.

        Their number is the number of known clusters times the share of new documents.

        Args:
          examples: New documents of each cluster, int64 [num_clusters].
          can_pull: Which arms can be pulled, bool [num_clusters].
          ties: Tie breaker of each cluster, uint64 [num_clusters].

        Returns:
          Clusters, ascending, int64.
        """
        clusters = np.unique(self.evidence.of_clusters()["cluster"])
        number = math.ceil(self.share * int(clusters.size))
        order = np.lexsort((ties, -examples))
        return np.sort(order[can_pull[order]][:number])
