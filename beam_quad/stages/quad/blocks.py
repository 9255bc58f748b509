"""The blocks of every cluster, and what they hold."""

import dataclasses
from typing import Any

import numpy as np

from beam_quad.artifacts import files
from beam_quad.artifacts.cache import cached
from beam_quad.bandit import (
    Blocks,
    Pulls,
    example_blocks,
)
from beam_quad.records import Split
from beam_quad.stages.base import Task
from beam_quad.stages.clusters.assign import load_cluster_sums, read_assignment
from beam_quad.stages.read.corpus import Corpus, read_json, write_json


@dataclasses.dataclass
class CountBlocks(Task):
    """Cuts every cluster into blocks and counts what each holds.

    Takes splits and gives `Blocks`. Blocks are ranges of a hash, so that nothing is sorted and nothing is written by
    example.

    Args:
      corpus: The corpus, embedded.
      assignments_dir: Folder of `AssignClusters`.
      folder: Where `blocks.npz` and `blocks.json` go.
      pulls: How pulls are sized.
    """

    corpus: Corpus
    assignments_dir: str
    folder: str
    pulls: Pulls

    @property
    def name(self) -> str:
        return "CountBlocks"

    @property
    def artifact(self) -> str:
        return files.join(self.folder, "blocks.json")

    def pieces(self) -> tuple[Split, ...]:
        return self.corpus.splits()

    def do(self, piece: Split, model: Any) -> Blocks:
        return count_blocks(self.corpus, self.assignments_dir, self._num_blocks(), piece)

    def finish(self, total: Blocks) -> None:
        sums = load_cluster_sums(self.assignments_dir)
        samples = self.pulls.samples(int(sums.examples.sum()), len(sums.examples))
        files.write_once(files.join(self.folder, "blocks.npz"), total.to_bytes())
        write_json(
            self.artifact, {"samples_per_pull": samples, "whole_blocks": self.pulls.is_census}
        )

    def _num_blocks(self) -> np.ndarray:
        sums = load_cluster_sums(self.assignments_dir)
        return self.pulls.num_blocks(sums.examples, sums.reserve)


@dataclasses.dataclass
class CountPassedOver(Task):
    """Counts what clusters, or their blocks, hold in examples that are too long to be selected.

    Takes splits and gives `Blocks`; only where the corpus has such examples. Another budget counts again, and finds
    blocks, candidates and scores made.

    Args:
      corpus: The corpus, embedded.
      assignments_dir: Folder of `AssignClusters`.
      blocks_dir: Folder of `CountBlocks`; None takes a cluster for one block.
      folder: Where `passed_over.json` and `passed_over.npz` go.
    """

    corpus: Corpus
    assignments_dir: str
    blocks_dir: str | None
    folder: str

    @property
    def name(self) -> str:
        return "CountPassedOver"

    @property
    def artifact(self) -> str:
        return files.join(self.folder, "passed_over.json")

    def pieces(self) -> tuple[Split, ...]:
        return self.corpus.splits() if self.corpus.may_pass_over() else ()

    def do(self, piece: Split, model: Any) -> Blocks:
        rows = self.corpus.rows(piece)
        clusters, _ = read_assignment(self.assignments_dir, piece)
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
            files.write_once(files.join(self.folder, "passed_over.npz"), total.to_bytes())
        write_json(self.artifact, {"examples": examples, "longest": self.corpus.longest()})

    def _num_blocks(self) -> np.ndarray:
        if self.blocks_dir is not None:
            return load_blocks(self.blocks_dir).num_blocks
        return np.ones(len(load_cluster_sums(self.assignments_dir).examples), np.int32)


def load_blocks(folder: str) -> Blocks:
    """Loads what `CountBlocks` counted, once per process."""
    path = files.join(folder, "blocks.npz")
    return cached(("blocks", path), lambda: Blocks.from_bytes(files.read_bytes(path)))


def load_passed_over(folder: str) -> tuple[int, Blocks | None]:
    """Loads how long an example may be, and what `CountPassedOver` counted; None where no example is longer."""

    def read() -> tuple[int, Blocks | None]:
        found = read_json(files.join(folder, "passed_over.json"))
        if not found["examples"]:
            return found["longest"], None
        counted = Blocks.from_bytes(files.read_bytes(files.join(folder, "passed_over.npz")))
        return found["longest"], counted

    return cached(("passed over", folder), read)


def load_samples_per_pull(folder: str) -> tuple[int, bool]:
    """Loads how many examples a pull scores, and whether it scores whole blocks."""
    path = files.join(folder, "blocks.json")
    values = cached(("blocks.json", path), lambda: read_json(path))
    return values["samples_per_pull"], values["whole_blocks"]


def count_blocks(corpus: Corpus, assignments_dir: str, num: np.ndarray, split: Split) -> Blocks:
    """Counts the examples, tokens and candidates that a split adds to each block."""
    rows = corpus.rows(split)
    clusters, _ = read_assignment(assignments_dir, split)
    kept = np.flatnonzero(clusters >= 0)
    return Blocks.of(
        num,
        clusters[kept],
        example_blocks(corpus.seed, rows.keys[kept], clusters[kept], num),
        rows.tokens[kept],
        corpus.in_reserve(rows)[kept],
    )
