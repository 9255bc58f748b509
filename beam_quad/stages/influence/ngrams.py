"""Counts of hashed n-grams over the corpus and the query set, for DSIR."""

import dataclasses
from typing import Any

from beam_quad.additive import total
from beam_quad.artifacts import files, traffic
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.corpus.rows import read_rows
from beam_quad.plan import rates
from beam_quad.plan.work import Sizes, Work, pass_over
from beam_quad.records import Split
from beam_quad.scoring.dsir import NgramCounts
from beam_quad.stages.read.embed import BATCH_ROWS
from beam_quad.stages.read.query import Query
from beam_quad.stages.read.splits import SplitStage


@dataclasses.dataclass(frozen=True)
class CountNgrams(SplitStage):
    """Counts the n-grams of every usable text; takes splits and returns `NgramCounts`.

    Writes `corpus.npz`, `query.npz`, and `query.json` with the counts of used and unused texts of each query group.

    Args:
      corpus: The corpus.
      query: The query set; its groups are counted together.
    """

    kind = "ngrams"
    version = 3
    artifact_name = "corpus.npz"
    num_adders = 64

    query: tuple[Query, ...]

    def work(self, sizes: Sizes) -> Work:
        texts = self.texts_of(sizes)
        own = pass_over(texts, "n-grams")
        hashed_s = texts.text_bytes * rates.HASH_BYTE_S
        return dataclasses.replace(own, core_s=hashed_s, bytes_read=texts.stored_bytes)

    def do(self, piece: Split, model: Any) -> NgramCounts:
        usable = self.corpus.rows(piece).usable
        columns = self.corpus.columns
        counts = NgramCounts.zero()
        if not usable.any():
            return counts
        traffic.count("bytes_read", piece.size_bytes)
        first = 0
        for batch in read_rows(self.corpus.readable(piece), columns, batch_rows=BATCH_ROWS):
            kept = usable[first : first + len(batch)]
            texts = [text or "" for text, keep in zip(batch.texts, kept, strict=True) if keep]
            counts = counts + NgramCounts.of(texts)
            first += len(batch)
        return counts

    def finish(self, counts: NgramCounts) -> None:
        groups = {group.name: group.read() for group in self.query}
        query = total((NgramCounts.of(g.texts) for g in groups.values()), NgramCounts.zero())
        files.write_once(self.path("query.npz"), query.to_bytes())
        used = {
            name: {"documents": len(group.texts), "unused": group.unused.counts}
            for name, group in groups.items()
        }
        write_json(self.path("query.json"), used)
        # The artifact last: once it is there, the stage counts as finished.
        files.write_once(self.artifact, counts.to_bytes())

    def load(self) -> tuple[NgramCounts, NgramCounts]:
        """Loads the counts of the query set and of the corpus."""
        query = NgramCounts.from_bytes(files.read_bytes(self.path("query.npz")))
        return query, NgramCounts.from_bytes(files.read_bytes(self.artifact))

    def groups(self) -> dict[str, dict[str, Any]]:
        """Reads, for each query group in order, its number of `documents` and the counts of `unused` texts by reason."""
        found = read_json(self.path("query.json"))
        return {group.name: found[group.name] for group in self.query}
