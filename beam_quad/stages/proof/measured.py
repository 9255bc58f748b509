"""The texts that measure a proof: query texts that steered nobody, and a general mix that nobody trains on."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa

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
_MEASURED = pa.schema([pa.field("set", pa.string()), *_TEXTS])


@dataclasses.dataclass(frozen=True)
class DrawMeasured(RowAlignedStage):
    """Gathers held-out query texts, and draws a general mix of the corpus by hash; no training reads any of them.

    Takes splits, and writes `texts.parquet`, in which no copy of a text is that is trained on.

    Args:
      corpus: The corpus.
      drawn: What the contenders train on.
      held_out: Where the held-out texts are: what a query group sets aside or, if it sets nothing aside, all of it.
      most_held_out: The most held-out texts to measure on.
      num_general: Texts of the general mix.
      seed: Of the draws.
    """

    kind = "proof_measured"
    version = 2
    artifact_name = "measured.json"

    drawn: tuple[DrawStage, ...]
    held_out: tuple[Query, ...]
    most_held_out: int
    num_general: int
    seed: int

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
            for batch in read_rows(piece, self.corpus.columns, batch_rows=BATCH_ROWS):
                texts += [t or "" for i, t in enumerate(batch.texts, first) if i in wanted]
                first += len(batch)
        self.write_rows(piece, _TEXTS, {"key": rows.keys[drawn], "text": texts})
        return Tally({"drawn": len(texts)})

    def finish(self, total: Tally | None) -> None:
        num_tokens = self.num_tokens()
        trained = np.concatenate([draw.fingerprints(num_tokens) for draw in self.drawn])
        held_out = [
            text
            for group in self.held_out
            for text in (group.read_aside() if group.sets_aside else group.read().texts)
        ]
        tables = [self.read_rows(split) for split in self.corpus.splits()]
        general = [text for table in tables for text in table["text"]]
        general_keys = [key for table in tables for key in table["key"]]
        sets = {
            HELD_OUT: (held_out, [0] * len(held_out), self.most_held_out),
            GENERAL: (general, general_keys, self.num_general),
        }
        counts, names, texts, keys = {}, [], [], []
        for name, (found, own, most) in sets.items():
            prints = fingerprints(found)
            # In the order of their hashes, each text once.
            prints, first = np.unique(prints, return_index=True)
            is_free = ~np.isin(prints, trained)
            order = seeding.lowest(self.seed, name, prints[is_free], most)
            taken = first[is_free][order].tolist()
            counts[name] = {"texts": len(taken), "trained_on": int((~is_free).sum())}
            names += [name] * len(taken)
            texts += [found[i] for i in taken]
            keys += [own[i] for i in taken]
        if counts[HELD_OUT]["texts"] < _FEWEST:
            raise UsageError(
                f"{counts[HELD_OUT]['texts']} held-out texts are left to measure on, as "
                f"{counts[HELD_OUT]['trained_on']} are in what is trained on; pass --heldout with others"
            )
        columns = {"set": names, "key": keys, "text": texts}
        aligned.write_table(self.path("texts.parquet"), _MEASURED, columns)
        write_json(self.artifact, counts)

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
        return read_json(self.artifact)

    @once_per_process
    def texts(self) -> dict[str, list[str]]:
        """Reads the texts of each set."""
        table = aligned.read_columns(self.path("texts.parquet"))
        return {name: table["text"][table["set"] == name].tolist() for name in (HELD_OUT, GENERAL)}
