"""Comparison of a selection with a random draw, from a stratified sample of scored examples.

The pilot scores about equally many examples of every cluster regardless of the cluster's size, so its plain mean does not
estimate the mean of a random draw. The estimate weights every cluster by its tokens:

    mean = sum_c W_c m_c,    m_c = sum_i t_i x_i / sum_i t_i   over the scored examples i of cluster c
    variance = sum_c W_c^2 v_c,    v_c = n_c / (n_c - 1) sum_i (t_i / sum t)^2 (x_i - m_c)^2

with W_c the cluster's share of the tokens and t_i the tokens of an example. A cluster with a single scored example
uses the pooled variance of the others. Landmarks are a simple random sample, a single stratum.

References:
  Cochran, Sampling Techniques, 3rd ed. 1977, chapters 5 (stratified means) and 6 (ratio estimators).
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from beam_quad.report.data import Cluster, ReportData, ScoredSample, Target

# With fewer landmarks the estimated spread, on which the interval depends, is too uncertain to show a mean.
LEAST_LANDMARKS = 10
_Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


@dataclasses.dataclass(frozen=True)
class Estimate:
    """An estimated mean influence.

    Attributes:
      mean: The estimate.
      standard_error: Its standard error; 0 for a census.
      num_examples: Number of scored examples used.
    """

    mean: float
    standard_error: float
    num_examples: int

    @property
    def half_width(self) -> float:
        """Half the width of the 95 % interval."""
        return _Z95 * self.standard_error


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrast:
    """The mean influence of a selection and of a random draw.

    Attributes:
      random: Mean influence per token of a random draw.
      spread: Token-weighted standard deviation of the influence of examples in that draw.
      selection: Mean influence per token of the selection.
      percentile: Share (0 to 1) of the corpus's tokens with influence below the selection's mean, estimated from the draw.
    """

    random: Estimate
    spread: float
    selection: Estimate
    percentile: float

    @property
    def gain(self) -> Estimate:
        """Selection minus random. Both estimates are treated as independent, which widens the interval."""
        a, b = self.selection, self.random
        error = math.hypot(a.standard_error, b.standard_error)
        return Estimate(a.mean - b.mean, error, a.num_examples)

    @property
    def in_deviations(self) -> float | None:
        """The gain in standard deviations of the random draw; None if the draw has no variance."""
        return self.gain.mean / self.spread if self.spread else None

    @property
    def is_above(self) -> bool:
        """Whether the selection's mean exceeds the mean of a random draw by more than chance."""
        return self.gain.mean > self.gain.half_width


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison(Contrast):
    """A contrast from the pilot and the scores of blocks; `selection` is the more cautious of two estimates.

    Attributes:
      by_blocks: The selection's mean estimated from the scored examples of accepted blocks. It is too high, because the same
        scores decided which blocks were accepted, but exact if every selected example was scored.
      by_clusters: The selection's mean estimated from all scored examples of its clusters, accepted or not, weighted by
        each cluster's selected tokens; None for a census. This is the cautious estimate: blocks are random cuts of a
        cluster, so luck in one block has no effect.
    """

    by_blocks: Estimate
    by_clusters: Estimate | None


def finite(sample: ScoredSample) -> ScoredSample:
    """Drops examples without a finite score."""
    return sample.where(np.isfinite(sample.influence))


def sampling_weights(sample: ScoredSample, cluster_tokens: Mapping[int, int] | None) -> np.ndarray:
    """Weights a sample's examples so that they represent a population.

    Args:
      sample: n examples with finite scores.
      cluster_tokens: Tokens of the population by cluster; absent clusters have weight 0. None: the sample is a simple random
        one, and each example's weight is its tokens.

    Returns:
      Weights, float64 [n], with sum 1; all 0 if no cluster of the population was sampled.
    """
    tokens = np.maximum(sample.tokens.astype(np.float64), 1.0)
    if cluster_tokens is not None:
        ids, index = np.unique(sample.cluster_id, return_inverse=True)
        share = np.array([cluster_tokens.get(int(i), 0) for i in ids], dtype=np.float64)
        tokens = tokens / np.bincount(index, tokens, len(ids))[index] * share[index]
    total = tokens.sum()
    return tokens / total if total > 0 else np.zeros(len(tokens))


def stratified_mean(
    sample: ScoredSample, cluster_tokens: Mapping[int, int] | None
) -> Estimate | None:
    """Estimates a population's mean influence per token; None if no example of it was scored.

    Args:
      sample: Scored examples.
      cluster_tokens: As for `sampling_weights`.
    """
    sample = finite(sample)
    weights = sampling_weights(sample, cluster_tokens)
    if not weights.any():
        return None
    strata = sample.cluster_id if cluster_tokens is not None else np.zeros(len(weights), np.int64)
    _, index, sizes = np.unique(strata, return_inverse=True, return_counts=True)
    mass = np.bincount(index, weights)
    means = np.bincount(index, weights * sample.influence) / np.where(mass > 0, mass, 1.0)
    squares = (sample.influence - means[index]) ** 2
    # One example says nothing about the spread in its cluster; such clusters borrow the pooled spread of the others.
    several = sizes > 1
    variance = np.bincount(index, weights**2 * squares) * sizes / np.maximum(sizes - 1, 1)
    freedom = (sizes - 1).sum()
    pooled = squares[several[index]].sum() / freedom if freedom else 0.0
    variance = np.where(several, variance, mass**2 * pooled)
    return Estimate(
        float(weights @ sample.influence),
        float(math.sqrt(variance.sum())),
        int((weights > 0).sum()),
    )


def percentile(sample: ScoredSample, weights: np.ndarray, value: float) -> float:
    """Computes the share (0 to 1) of a weighted sample below a value; ties count half."""
    below = weights[sample.influence < value].sum()
    return float(below + 0.5 * weights[sample.influence == value].sum())


def token_shares(
    clusters: tuple[Cluster, ...] | None,
) -> tuple[dict[int, int], dict[int, int]] | tuple[None, None]:
    """Returns the tokens by cluster of the corpus and of the selection; Nones without clusters."""
    if not clusters:
        return None, None
    corpus = {c.cluster_id: c.tokens for c in clusters}
    return corpus, {c.cluster_id: c.selected_tokens for c in clusters}


def compare(data: ReportData) -> Comparison | None:
    """Compares the selection with a random draw; None without a pilot, or without scores of the selection."""
    if data.scores is None or data.scores.pilot is None:
        return None
    scores = data.scores
    corpus, selection = token_shares(data.clusters)
    pilot = finite(data.scores.pilot)
    random = stratified_mean(pilot, corpus)
    by_blocks = stratified_mean(scores.selected, None if scores.is_census else selection)
    if random is None or by_blocks is None:
        return None
    if scores.is_census:
        by_blocks = dataclasses.replace(by_blocks, standard_error=0.0)
    by_clusters = None
    if selection is not None and not scores.is_census:
        by_clusters = stratified_mean(scores.scored, selection)
    # The headline takes the cautious estimate wherever there is one.
    selected = by_clusters or by_blocks
    weights = sampling_weights(pilot, corpus)
    return Comparison(
        random=random,
        spread=_spread(pilot, weights),
        selection=selected,
        percentile=percentile(pilot, weights, selected.mean),
        by_blocks=by_blocks,
        by_clusters=by_clusters,
    )


def landmarks(target: Target) -> ScoredSample:
    """Returns the landmarks with their exact influence on a target, a uniform sample in one stratum."""
    return ScoredSample(target.influence, target.tokens, np.zeros(len(target.tokens), np.int64))


def taken_landmarks(target: Target) -> ScoredSample:
    """Returns the landmarks that represent the examples selected for a target; see `Target.would_take`."""
    return finite(landmarks(target).where(target.would_take))


def compare_target(target: Target) -> Contrast | None:
    """Compares the examples selected for a target with a random draw; None if too few landmarks represent them.

    Selected landmarks count with their exact influence. The landmarks of `would_take` represent all other selected examples.
    """
    drawn = finite(landmarks(target))
    random, selection = stratified_mean(drawn, None), _selection(target)
    if random is None or selection is None:
        return None
    weights = sampling_weights(drawn, None)
    return Contrast(
        random=random,
        spread=_spread(drawn, weights),
        selection=selection,
        percentile=percentile(drawn, weights, selection.mean),
    )


def _selection(target: Target) -> Estimate | None:
    exact = None
    if target.taken is not None:
        exact = stratified_mean(landmarks(target).where(target.taken), None)
    # Every selected example is a landmark with an exact score: a census, without an error of sampling.
    if exact is not None and not target.is_predicted:
        return Estimate(exact.mean, 0.0, exact.num_examples)
    predicted = stratified_mean(taken_landmarks(target), None)
    if predicted is None or predicted.num_examples < LEAST_LANDMARKS:
        return None
    # The exact part is known without error, so only the predicted part, by its share of the tokens, widens the interval.
    share = 1 - target.exact_tokens / max(target.selected_tokens, 1) if exact is not None else 1.0
    mean = share * predicted.mean + (1 - share) * (exact.mean if exact is not None else 0.0)
    return Estimate(mean, share * predicted.standard_error, predicted.num_examples)


def share_of_exact_gain(target: Target) -> float | None:
    """Computes the share of the possible gain over a random draw that prediction retains.

    Returns:
      The gain of the landmarks that the target would take, divided by the gain of as many tokens of the landmarks with the
      highest exact influence, at most 1; None as for `compare_target`, and if no gain is possible.
    """
    drawn, taken = finite(landmarks(target)), taken_landmarks(target)
    random, predicted = stratified_mean(drawn, None), stratified_mean(taken, None)
    if random is None or predicted is None or predicted.num_examples < LEAST_LANDMARKS:
        return None
    order = np.argsort(-drawn.influence, kind="stable")
    tokens = np.maximum(drawn.tokens[order].astype(np.float64), 1.0)
    # The last of the best landmarks counts in part, so that both selections have equally many tokens.
    left = np.maximum(taken.tokens, 1).sum() - (np.cumsum(tokens) - tokens)
    weights = np.clip(left, 0.0, tokens)
    best = float(weights @ drawn.influence[order] / weights.sum())
    possible = best - random.mean
    return (predicted.mean - random.mean) / possible if possible > 0 else None


def _spread(sample: ScoredSample, weights: np.ndarray) -> float:
    mean = weights @ sample.influence
    return math.sqrt(float(weights @ (sample.influence - mean) ** 2))
