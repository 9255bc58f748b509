"""Counts of hashed n-grams over the corpus and the query set, for DSIR."""

import dataclasses
from typing import Any

from beam_quad.additive import total
from beam_quad.artifacts import files, traffic
from beam_quad.corpus.rows import read_rows
from beam_quad.records import Split
from beam_quad.scoring.dsir import NgramCounts
from beam_quad.stages.base import Task
from beam_quad.stages.read.corpus import Corpus, write_json
from beam_quad.stages.read.embed import BATCH_ROWS
from beam_quad.stages.read.query import Query


@dataclasses.dataclass
class CountNgrams(Task):
    """Counts the n-grams of every usable text: splits in, `NgramCounts` out.

    Args:
      corpus: The corpus.
      query: The query set; its groups are counted together.
      folder: Where `corpus.npz`, `query.npz` and `query.json`, the texts of each group that are used and not, go.
    """

    corpus: Corpus
    query: tuple[Query, ...]
    folder: str

    @property
    def name(self) -> str:
        return "CountNgrams"

    @property
    def artifact(self) -> str:
        return files.join(self.folder, "corpus.npz")

    def pieces(self) -> tuple[Split, ...]:
        return self.corpus.splits()

    def do(self, piece: Split, model: Any) -> NgramCounts:
        usable = self.corpus.rows(piece).usable
        columns = self.corpus.columns()
        counts = NgramCounts.zero()
        if not usable.any():
            return counts
        traffic.count("bytes_read", piece.size_bytes)
        first = 0
        for batch in read_rows(piece, columns, batch_rows=BATCH_ROWS):
            kept = usable[first : first + len(batch)]
            texts = [text or "" for text, keep in zip(batch.texts, kept, strict=True) if keep]
            counts = counts + NgramCounts.of(texts)
            first += len(batch)
        return counts

    def finish(self, counts: NgramCounts) -> None:
        groups = {group.name: group.read() for group in self.query}
        query = total((NgramCounts.of(g.texts) for g in groups.values()), NgramCounts.zero())
        files.write_once(files.join(self.folder, "query.npz"), query.to_bytes())
        used = {
            name: {"documents": len(group.texts), "unused": group.unused.counts}
            for name, group in groups.items()
        }
        write_json(files.join(self.folder, "query.json"), used)
        files.write_once(self.artifact, counts.to_bytes())
