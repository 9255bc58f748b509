"""The conditions of the shares each row meets, and the amount of the corpus that meets them."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa

from beam_quad.additive import ByName, Tally
from beam_quad.artifacts import aligned, traffic
from beam_quad.artifacts.cache import once_per_process
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.columns import find_sorted
from beam_quad.corpus import seen
from beam_quad.corpus.rows import read_values
from beam_quad.plan import rates
from beam_quad.plan.work import Sizes, Work, pass_over
from beam_quad.records import Budget, Split
from beam_quad.selection import Amount
from beam_quad.selection.programme import System, refuse_unmet
from beam_quad.selection.shares import Bound, Condition, members_of, pattern_codes, patterns_of
from beam_quad.stages.read.embed import BATCH_ROWS
from beam_quad.stages.read.splits import RowAlignedStage, SplitStage

_BYTE = np.dtype(np.uint8)


@dataclasses.dataclass(frozen=True)
class ReadPatterns(RowAlignedStage):
    """Tests the conditions on each row; reads no other columns if the input is Parquet.

    Takes splits; writes one row-aligned file each. Gives the number of rows with a value, by column.

    Args:
      corpus: The corpus.
      conditions: The conditions.
    """

    kind = "patterns"
    artifact_name = "patterns.json"

    conditions: tuple[Condition, ...]

    @property
    def columns(self) -> list[str]:
        """The columns that are read, each once."""
        return sorted({condition.column for condition in self.conditions})

    def work(self, sizes: Sizes) -> Work:
        texts = self.texts_of(sizes)
        own = pass_over(texts, "shares")
        # The columns of the conditions may be all of the input.
        return dataclasses.replace(
            own,
            core_s=own.core_s + texts.stored_bytes * rates.COPIED_BYTE_S,
            bytes_read=texts.stored_bytes,
            requests=texts.requests(11, 1),
        )

    def do(self, piece: Split, model: Any) -> Tally:
        # Patterns of rejected rows are kept as well: whether a row can be selected may change, its columns do not.
        num_rows = len(self.corpus.own_rows(piece).keys)
        patterns = np.zeros((num_rows, -(-len(self.conditions) // 8)), np.uint8)
        present: dict[str, int] = {}
        if num_rows:
            readable = self.corpus.readable(piece)
            values: dict[str, list[Any]] = {}
            for name in self.columns:
                traffic.count("bytes_read", piece.size_bytes)
                runs = read_values(readable, name, BATCH_ROWS)
                values[name] = [value for run in runs for value in run]
                present[name] = num_rows - values[name].count(None)
            patterns = patterns_of(self.conditions, values)
            if piece.first_group == 0:
                # The stage that read the texts did not record these columns.
                names = [*self.corpus.columns.names, *self.columns]
                seen.record(self.corpus.seen_dir, readable, list(dict.fromkeys(names)))
        column = aligned.vector_column(patterns, _BYTE)
        schema = pa.schema([pa.field("pattern", column.type)])
        with aligned.table_writer(self.rows_path(piece), schema) as writer:
            writer.write({"pattern": column})
            writer.close({"present": present})
        return Tally(present)

    def statistic(self, piece: Split) -> Tally:
        return Tally(aligned.read_metadata(self.rows_path(piece))["present"])

    def read(self, split: Split) -> np.ndarray:
        """Reads the pattern of each row of a split, uint8 [n, num_bytes]."""
        table = aligned.read_table(self.rows_path(split))
        return aligned.unpack_vectors(table.column("pattern"), _BYTE)


@dataclasses.dataclass(frozen=True)
class CountPatterns(SplitStage):
    """Counts the documents of each pattern, and refuses bounds they cannot meet before anything is scored.

    Takes splits and gives `Amount`s by pattern, in hexadecimal digits.

    Args:
      corpus: The corpus, within the budget.
      patterns: The patterns.
      bounds: The bounds.
      budget: The budget.
    """

    kind = "pattern_counts"
    artifact_name = "counts.json"

    patterns: ReadPatterns
    bounds: tuple[Bound, ...]
    budget: Budget

    def work(self, sizes: Sizes) -> Work:
        return dataclasses.replace(super().work(sizes), line="shares")

    def do(self, piece: Split, model: Any) -> ByName[Amount]:
        rows = self.corpus.rows(piece)
        at = np.flatnonzero(self.corpus.is_candidate(rows))
        patterns = self.patterns.read(piece)[at]
        found, first, own = np.unique(
            pattern_codes(patterns), return_index=True, return_inverse=True
        )
        tokens = np.bincount(own, weights=rows.tokens[at], minlength=len(found)).astype(np.int64)
        names = [patterns[i].tobytes().hex() for i in first]
        numbers = np.bincount(own, minlength=len(found)).tolist()
        amounts = zip(names, numbers, tokens.tolist(), strict=True)
        return ByName({name: Amount(number, of) for name, number, of in amounts})

    def finish(self, total: ByName[Amount] | None) -> None:
        named = (total or ByName()).named
        present = read_json(self.patterns.artifact)
        is_tokens = self.budget.unit == "tokens"
        held = {name: own.tokens if is_tokens else own.documents for name, own in named.items()}
        refuse_unmet(
            self.bounds,
            self._members(sorted(named)),
            np.array([held[name] for name in sorted(named)], np.int64),
            self.budget,
            [name for name in self.patterns.columns if not present.get(name)],
        )
        write_json(self.artifact, {name: held[name] for name in sorted(named)})

    def system(self) -> System:
        """The bounds over the patterns, in their order."""
        return System.of(self.bounds, self._members(sorted(self._held())))

    def num_patterns(self) -> int:
        """How many patterns there are."""
        return len(self._held())

    def of(self, split: Split) -> np.ndarray:
        """Numbers the pattern of each row of a split, int64 [n]; a row that cannot be selected may have any number."""
        width = -(-len(self.patterns.conditions) // 8)
        known = np.array([bytes.fromhex(name) for name in sorted(self._held())], f"S{width}")
        # A pattern only of rows that cannot be selected was never counted, and gets number 0.
        return np.maximum(find_sorted(known, pattern_codes(self.patterns.read(split))), 0)

    def _members(self, names: list[str]) -> np.ndarray:
        width = -(-len(self.patterns.conditions) // 8)
        data = b"".join(bytes.fromhex(name) for name in names)
        patterns = np.frombuffer(data, np.uint8).reshape(len(names), width)
        return members_of(self.bounds, self.patterns.conditions, patterns)

    @once_per_process
    def _held(self) -> dict[str, int]:
        return read_json(self.artifact)
