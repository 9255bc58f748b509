"""The texts that measure a proof: query texts that steered nobody, and a general mix that nobody trains on."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_quad import seeding
from beam_quad.additive import Tally
from beam_quad.artifacts import aligned, traffic
from beam_quad.artifacts.cache import once_per_process
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.corpus.rows import read_rows
from beam_quad.errors import UsageError
from beam_quad.proof import fingerprints
from beam_quad.records import Split
from beam_quad.stages.proof.draw import DrawStage
from beam_quad.stages.read.corpus import hash_sample
from beam_quad.stages.read.embed import BATCH_ROWS
from beam_quad.stages.read.query import Query
from beam_quad.stages.read.splits import RowAlignedStage

HELD_OUT, GENERAL = "held_out", "general"
# Drawn over those that measure: some are trained on.
_SPARE = 4
_FEWEST = 2
_TEXTS = pa.schema([pa.field("key", pa.uint64()), pa.field("text", pa.large_string())])
# The key of a query text is 0.
_MEASURED = pa.schema(
    [pa.field("set", pa.string()), pa.field("groups", pa.list_(pa.int32())), *_TEXTS]
)


@dataclasses.dataclass(frozen=True)
class DrawMeasured(RowAlignedStage):
    """Gathers held-out query texts, and draws a general mix of the corpus by hash; no training reads any of them.

    Takes splits, and writes `texts.parquet`, in which no copy of a text is that is trained on. A held-out text of two
    query groups is there once, and measures for both.

    Args:
      corpus: The corpus.
      drawn: What the contenders train on.
      held_out: Where the held-out texts are: what a query group sets aside or, if it sets nothing aside, all of it.
      most_held_out: The most held-out texts of each group to measure on.
      num_general: Texts of the general mix.
      seed: Of the draws.
    """

    kind = "proof_measured"
    version = 3
    artifact_name = "measured.json"

    drawn: tuple[DrawStage, ...]
    held_out: tuple[Query, ...]
    most_held_out: int
    num_general: int
    seed: int

    @property
    def rows_folder(self) -> str:
        """With the artifact: which texts are drawn depends on how many there are."""
        return self.path("rows")

    def statistic(self, piece: Split) -> Tally:
        return Tally({"drawn": aligned.num_rows(self.rows_path(piece))})

    def do(self, piece: Split, model: Any) -> Tally:
        rows = self.corpus.rows(piece)
        rate = min(1.0, _SPARE * self.num_general / max(1, self.corpus.num_distinct()))
        drawn = hash_sample(self.seed, "general mix", rows, rate)
        texts: list[str] = []
        if len(drawn):
            traffic.count("bytes_read", piece.size_bytes)
            wanted, first = set(drawn.tolist()), 0
            for batch in read_rows(
                self.corpus.readable(piece), self.corpus.columns, batch_rows=BATCH_ROWS
            ):
                texts += [t or "" for i, t in enumerate(batch.texts, first) if i in wanted]
                first += len(batch)
        self.write_rows(piece, _TEXTS, {"key": rows.keys[drawn], "text": texts})
        return Tally({"drawn": len(texts)})

    def finish(self, total: Tally | None) -> None:
        num_tokens = self.num_tokens()
        trained = np.concatenate([draw.fingerprints(num_tokens) for draw in self.drawn])
        tables = [self.read_rows(split) for split in self.corpus.splits()]
        texts = [text for table in tables for text in table["text"]]
        keys = [key for table in tables for key in table["key"]]
        general = _Measuring.draw(texts, trained, self.seed, GENERAL, self.num_general)
        prints = fingerprints(texts).tolist()
        # Of equal texts the first.
        key_of = dict(zip(reversed(prints), reversed(keys), strict=True))
        groups = {
            query.name: _Measuring.draw(
                query.read_aside() if query.sets_aside else query.read().texts,
                trained, self.seed, HELD_OUT, self.most_held_out,
            )
            for query in self.held_out
        }  # fmt: skip
        for name, group in groups.items():
            self._require_enough(name, group)
        held_out: dict[int, str] = {}
        groups_of: dict[int, list[int]] = {}
        for number, group in enumerate(groups.values()):
            for fingerprint, text in group.texts.items():
                held_out.setdefault(fingerprint, text)
                groups_of.setdefault(fingerprint, []).append(number)
        columns = {
            "set": [HELD_OUT] * len(held_out) + [GENERAL] * len(general.texts),
            "groups": [*groups_of.values(), *([] for _ in general.texts)],
            "key": [*(0 for _ in held_out), *(key_of[print_] for print_ in general.texts)],
            "text": [*held_out.values(), *general.texts.values()],
        }
        aligned.write_table(self.path("texts.parquet"), _MEASURED, columns)
        trained_on = len(set().union(*(group.trained_on for group in groups.values())))
        counts = {
            HELD_OUT: {"texts": len(held_out), "trained_on": trained_on},
            GENERAL: general.counts(),
            "groups": {name: group.counts() for name, group in groups.items()},
        }
        write_json(self.artifact, counts)

    def _require_enough(self, name: str, group: "_Measuring") -> None:
        if len(group.texts) >= _FEWEST:
            return
        whose, flag = "", "--heldout"
        if len(self.held_out) > 1:
            whose, flag = f" of {name}", "--heldout_group"
        raise UsageError(
            f"{len(group.texts)} held-out texts{whose} are left to measure on, as {len(group.trained_on)} are in what is "
            f"trained on; pass {flag} with others"
        )

    def num_tokens(self) -> int:
        """The tokens of every training: what is asked for, but no more than any contender has for any seed.

        Raises:
          UsageError: If a contender has none.
        """
        tokens = {drawn.contender: min(drawn.tokens()) for drawn in self.drawn}
        name = min(tokens, key=lambda name: tokens[name])
        if not tokens[name]:
            raise UsageError(f"no text to train on in the selection of {name}")
        return min(self.drawn[0].draws.num_tokens, tokens[name])

    def counts(self) -> dict[str, dict[str, int]]:
        """Reads how many texts each set has, and how many it lost as they are trained on."""
        found = read_json(self.artifact)
        return {name: found[name] for name in (HELD_OUT, GENERAL)}

    def group_counts(self) -> dict[str, dict[str, int]]:
        """Reads the same of the held-out texts of each query group, in order."""
        found = read_json(self.artifact)["groups"]
        return {query.name: found[query.name] for query in self.held_out}

    @once_per_process
    def texts(self) -> dict[str, list[str]]:
        """Reads the texts of each set."""
        return {name: self._read(name, "text") for name in (HELD_OUT, GENERAL)}

    def groups(self) -> np.ndarray:
        """Reads which held-out texts are in each query group, bool [num_groups, num_texts]."""
        groups_of = self._read(HELD_OUT, "groups")
        found = np.zeros((len(self.held_out), len(groups_of)), bool)
        for text, numbers in enumerate(groups_of):
            found[numbers, text] = True
        return found

    def _read(self, name: str, column: str) -> list[Any]:
        table = aligned.read_table(self.path("texts.parquet"))
        found: list[Any] = table.filter(pc.equal(table["set"], name))[column].to_pylist()
        return found


@dataclasses.dataclass(frozen=True)
class _Measuring:
    """The texts of a set, or of a query group, that measure.

    Attributes:
      texts: The texts by fingerprint, in the order of their hashes.
      trained_on: Fingerprints of those that are left out, as they are trained on.
    """

    texts: dict[int, str]
    trained_on: frozenset[int]

    @classmethod
    def draw(
        cls, found: list[str], trained: np.ndarray, seed: int, name: str, most: int
    ) -> "_Measuring":
        prints, first = np.unique(fingerprints(found), return_index=True)
        is_free = ~np.isin(prints, trained)
        order = seeding.lowest(seed, name, prints[is_free], most)
        drawn = zip(prints[is_free][order].tolist(), first[is_free][order], strict=True)
        texts = {fingerprint: found[i] for fingerprint, i in drawn}
        return cls(texts, frozenset(prints[~is_free].tolist()))

    def counts(self) -> dict[str, int]:
        return {"texts": len(self.texts), "trained_on": len(self.trained_on)}
