"""Flags possible paraphrases of protected texts in the selection; they are reported, not left out."""

import collections
import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa

from beam_quad.answers import plain
from beam_quad.artifacts import aligned, traffic
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.corpus.rows import read_texts
from beam_quad.plan.work import Sizes, Work
from beam_quad.records import Split
from beam_quad.selection.paraphrases import (
    LEAST_COSINE,
    LEAST_SHARE,
    Cosines,
    nearest_items,
    word_share,
)
from beam_quad.stages.read.corpus import hash_sample
from beam_quad.stages.read.embed_items import EmbedItems
from beam_quad.stages.read.splits import SplitStage
from beam_quad.stages.write.ranked import Selection

# Size of the sample behind the threshold.
_SAMPLED = 100_000
_SHOWN_CHARACTERS = 400
# The key lets `ForgetTexts` find the text of an excluded document.
_FLAGS = pa.schema(
    [
        pa.field("key", pa.uint64()),
        pa.field("document", pa.string()),
        pa.field("set", pa.string()),
        pa.field("item", pa.string()),
        pa.field("text", pa.string()),
        pa.field("item_text", pa.string()),
        pa.field("cosine", pa.float64()),
        pa.field("share", pa.float64()),
    ]
)


@dataclasses.dataclass(frozen=True, eq=False)
class Flags:
    """Selected documents close to an item. An additive statistic.

    Attributes:
      cosines: Cosines between a sample of the corpus and the nearest items.
      rows: Rows of `_FLAGS`.
    """

    cosines: Cosines
    rows: tuple[dict[str, Any], ...]

    @classmethod
    def none(cls) -> "Flags":
        """Flags nothing, of no sample."""
        return cls(Cosines.of(np.zeros(0)), ())

    def __add__(self, other: "Flags") -> "Flags":
        return Flags(self.cosines + other.cosines, self.rows + other.rows)


@dataclasses.dataclass(frozen=True)
class FlagParaphrases(SplitStage):
    """Flags selected documents as possible paraphrases of an item.

    Takes splits and gives `Flags`. The text of a selected document is read again if its embedding has a cosine of at
    least `LEAST_COSINE` with an item; the final threshold is at least as high.

    Args:
      corpus: The corpus, embedded, within the budget.
      selection: The selection.
      items: The items.
    """

    kind = "paraphrases"
    version = 3
    artifact_name = "paraphrases.json"

    selection: Selection
    items: EmbedItems

    def work(self, sizes: Sizes) -> Work:
        return dataclasses.replace(super().work(sizes), line="paraphrases")

    def do(self, piece: Split, model: Any) -> Flags:
        rows, points = self.corpus.rows(piece), self.items.points()
        if not len(points) or not rows.usable.any():
            return Flags.none()
        rate = min(1.0, _SAMPLED / max(1, self.corpus.num_usable()))
        sampled = hash_sample(self.corpus.seed, "paraphrases", rows, rate)
        selected = self.selection.keep(piece, rows).rows
        # The sample sets the threshold; only selected rows may be flagged.
        at = np.union1d(sampled, selected)
        if not len(at):
            return Flags.none()
        nearest, cosines = nearest_items(self.corpus.some_embeddings(piece, at), points)
        # Reading texts is expensive, so only documents above the lowest possible threshold are read.
        close = np.flatnonzero(np.isin(at, selected) & (cosines >= LEAST_COSINE))
        found = self._flags(piece, rows.keys, at[close], nearest[close], cosines[close])
        return Flags(Cosines.of(cosines[np.isin(at, sampled)]), found)

    def _flags(
        self,
        split: Split,
        keys: np.ndarray,
        rows: np.ndarray,
        nearest: np.ndarray,
        cosines: np.ndarray,
    ) -> tuple[dict[str, Any], ...]:
        if not len(rows):
            return ()
        traffic.count("bytes_read", split.size_bytes)
        texts = read_texts(self.corpus.readable(split), self.corpus.columns, rows)
        compared, named = list(self.items.leaks.compared().items()), self.items.leaks.items()
        places, flags = self.corpus.places(split, len(keys)), []
        for row, item, cosine in zip(
            rows.tolist(), nearest.tolist(), cosines.tolist(), strict=True
        ):
            number, item_text = compared[item]
            share = word_share(texts[row], item_text)
            if share < LEAST_SHARE:
                continue
            own_set, name, _ = named[number]
            document = "{}#{}".format(*places.of(row))
            shown = (own[:_SHOWN_CHARACTERS] for own in (plain(texts[row]), item_text))
            values = (int(keys[row]), document, own_set, name, *shown, cosine, share)
            flags.append(dict(zip(_FLAGS.names, values, strict=True)))
        return tuple(flags)

    def finish(self, total: Flags | None) -> None:
        total = total or Flags.none()
        threshold = total.cosines.threshold()
        flags = [row for row in total.rows if row["cosine"] >= threshold]
        flags.sort(key=lambda row: (-row["cosine"], row["document"]))
        columns = {name: [row[name] for row in flags] for name in _FLAGS.names}
        aligned.write_table(self.path("flags.parquet"), _FLAGS, columns)
        by_set = collections.Counter(row["set"] for row in flags)
        facts = {"least_cosine": threshold, "texts": len(self.items.points())}
        write_json(
            self.artifact, facts | {"rows": len(flags), "rows_by_set": dict(sorted(by_set.items()))}
        )

    def facts(self) -> dict[str, Any]:
        """Reads the `least_cosine`, the number of `texts` compared with, and the number of flagged `rows`."""
        return read_json(self.artifact)

    def read(self, most: int) -> list[dict[str, Any]]:
        """Reads the closest of the flagged documents: rows of `_FLAGS` without keys."""
        table = aligned.read_table(self.path("flags.parquet")).drop_columns(["key"])
        return table.slice(0, most).to_pylist()
