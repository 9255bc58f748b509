"""The blocks of every cluster, with their counts of examples and tokens."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import once_per_process
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.bandit import Blocks, ClusterSizes, Evidence, Prior, Pulls, example_blocks
from beam_quad.plan.work import Sizes, Work
from beam_quad.records import Split
from beam_quad.stages.clusters.assign import AssignClusters
from beam_quad.stages.clusters.centers import expected_clusters
from beam_quad.stages.read.splits import SplitStage


class ExpectedBlocks(NamedTuple):
    """The blocks of a corpus before it is read, if all clusters were equally large.

    Attributes:
      num_clusters: Number of clusters.
      num_blocks: Blocks of all clusters.
      samples_per_pull: Examples that a pull scores.
    """

    num_clusters: int
    num_blocks: int
    samples_per_pull: int


@dataclasses.dataclass(frozen=True)
class CountBlocks(SplitStage):
    """Cuts every cluster into blocks and counts the examples and tokens of each.

    Takes splits and returns `Blocks`; writes `blocks.npz` and `blocks.json`. A block is a range of a hash, so no
    example is sorted and no file is written per example.

    Args:
      corpus: The embedded corpus.
      clusters: Its clusters.
      pulls: Sizes of pulls and blocks.
      whole: The clusters of the whole corpus, if `corpus` is only its new splits; None otherwise.
    """

    kind = "blocks"
    version = 2
    artifact_name = "blocks.json"
    num_adders = 64

    clusters: AssignClusters
    pulls: Pulls
    whole: AssignClusters | None = None

    def work(self, sizes: Sizes) -> Work:
        requests = self.texts_of(sizes).requests(2)
        return dataclasses.replace(super().work(sizes), requests=requests)

    def expected(self, sizes: Sizes) -> ExpectedBlocks:
        """Estimates the blocks before the corpus is read."""
        documents = self.texts_of(sizes).documents
        num_clusters = expected_clusters(self.clusters.centers, sizes)
        each = np.full(num_clusters, -(-documents // num_clusters))
        reserve = np.ceil(self.corpus.reserve_rate * each).astype(int)
        samples = self.pulls.samples(documents, num_clusters)
        return ExpectedBlocks(
            num_clusters, int(self.pulls.num_blocks(each, reserve).sum()), samples
        )

    def do(self, piece: Split, model: Any) -> Blocks:
        _, num = self._sizes()
        rows = self.corpus.rows(piece)
        clusters, _ = self.clusters.read(piece)
        at = np.flatnonzero(clusters >= 0)
        return Blocks.of(
            num,
            clusters[at],
            example_blocks(self.corpus.seed, rows.keys[at], clusters[at], num),
            rows.tokens[at],
            self.corpus.in_reserve(rows)[at],
        )

    def finish(self, total: Blocks) -> None:
        samples, _ = self._sizes()
        files.write_once(self.path("blocks.npz"), total.to_bytes())
        write_json(
            self.artifact, {"samples_per_pull": samples, "whole_blocks": self.pulls.is_census}
        )

    @once_per_process
    def load(self) -> Blocks:
        """Loads the blocks, once per process."""
        return Blocks.from_bytes(files.read_bytes(self.path("blocks.npz")))

    @once_per_process
    def samples_per_pull(self) -> tuple[int, bool]:
        """Loads the number of examples in a pull, and whether a pull scores its whole block; once per process."""
        values = read_json(self.artifact)
        return values["samples_per_pull"], values["whole_blocks"]

    def prior(self, evidence: Evidence) -> Prior | None:
        """Returns the prior of a bandit over a part of a corpus; None over the whole corpus."""
        # A bandit over the whole corpus needs no prior: its pilot finds the scores of earlier runs on disk.
        if self.whole is None:
            return None
        new, whole = self.clusters.sums().examples, self.whole.sums().examples
        num_documents = int(whole.sum())
        samples = self.pulls.samples(num_documents, len(whole))
        return Prior(evidence, int(new.sum()), num_documents, samples)

    def _sizes(self) -> tuple[int, np.ndarray]:
        """Returns the number of examples in a pull, and the number of blocks of each cluster, int [num_clusters]."""
        sums = self.clusters.sums()
        if self.whole is None:
            samples = self.pulls.samples(int(sums.examples.sum()), len(sums.examples))
            return samples, self.pulls.num_blocks(sums.examples, sums.reserve)
        # The pulls of a part score about the same share of its examples as the pulls of the whole corpus would.
        of_whole = self.whole.sums()
        return self.pulls.of_part(
            ClusterSizes(sums.examples, sums.reserve),
            ClusterSizes(of_whole.examples, of_whole.reserve),
        )

    def arms(self, split: Split, rows: aligned.Rows) -> tuple[np.ndarray, np.ndarray]:
        """Returns the cluster and the block of each row of a split, each int [n]; -1 for rows without a cluster."""
        clusters = self.clusters.of_rows(split)
        return clusters, self.of_rows(rows, clusters)

    def of_rows(self, rows: aligned.Rows, clusters: np.ndarray) -> np.ndarray:
        """Returns the block of each row, int [n]; -1 if its cluster is -1."""
        blocks = np.full(len(clusters), -1, np.int64)
        usable = np.flatnonzero(clusters >= 0)
        num = self.load().num_blocks
        blocks[usable] = example_blocks(self.corpus.seed, rows.keys[usable], clusters[usable], num)
        return blocks


@dataclasses.dataclass(frozen=True)
class CountPassedOver(SplitStage):
    """Counts, per block or per cluster, the examples that cannot be selected because they are too long or leak.

    Takes splits and returns `Blocks`; reads no split if the corpus has no such examples. Only these counts depend on
    the budget: a run with another budget repeats this stage and reuses blocks, candidates and scores. Writes
    `passed_over.json` and, if there is any such example, `passed_over.npz`.

    Args:
      corpus: The embedded corpus, within the budget.
      clusters: Its clusters.
      blocks: The blocks of the clusters; None treats each cluster as one block.
    """

    kind = "passed_over"
    version = 3
    artifact_name = "passed_over.json"
    num_adders = 64

    clusters: AssignClusters
    blocks: CountBlocks | None

    def pieces(self) -> tuple[Split, ...]:
        # Usually no example is too long or leaks. The totals of the corpus tell this without reading a split.
        return self.corpus.splits() if self.corpus.may_pass_over() else ()

    def do(self, piece: Split, model: Any) -> Blocks:
        rows = self.corpus.rows(piece)
        clusters, _ = self.clusters.read(piece)
        # Subtracted from `CountBlocks`, whose counts serve every budget.
        at = np.flatnonzero((clusters >= 0) & ~self.corpus.is_candidate(rows))
        num = self._num_blocks()
        return Blocks.of(
            num,
            clusters[at],
            example_blocks(self.corpus.seed, rows.keys[at], clusters[at], num),
            rows.tokens[at],
            self.corpus.in_reserve(rows)[at],
        )

    def finish(self, total: Blocks | None) -> None:
        examples = 0 if total is None else int(total.examples.sum())
        if total is not None and examples:
            files.write_once(self.path("passed_over.npz"), total.to_bytes())
        write_json(self.artifact, {"examples": examples})

    @once_per_process
    def load(self) -> Blocks | None:
        """Loads the counts, once per process; None if all examples can be selected."""
        if not read_json(self.artifact)["examples"]:
            return None
        return Blocks.from_bytes(files.read_bytes(self.path("passed_over.npz")))

    def _num_blocks(self) -> np.ndarray:
        if self.blocks is not None:
            return self.blocks.load().num_blocks
        return np.ones(len(self.clusters.sums().examples), np.int32)
