"""The measured texts of a proof: held-out query texts and a general mix. No contender trains on either."""

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
from beam_quad.plan.work import Sizes, Work, pass_over
from beam_quad.proof import fingerprints
from beam_quad.proof.held_out import HELD_OUT_SHARE
from beam_quad.records import Split
from beam_quad.stages.proof.draw import DrawStage
from beam_quad.stages.read.corpus import hash_sample
from beam_quad.stages.read.embed import BATCH_ROWS
from beam_quad.stages.read.query import Query
from beam_quad.stages.read.splits import RowAlignedStage

HELD_OUT, GENERAL = "held_out", "general"
# Texts drawn per text of the general mix, as some are trained on and left out.
_SPARE = 4
# The fewest held-out texts of a query group to measure on: the loss of a single text has no interval.
_FEWEST = 2
_TEXTS = pa.schema([pa.field("key", pa.uint64()), pa.field("text", pa.large_string())])
# Query texts have key 0.
_MEASURED = pa.schema(
    [pa.field("set", pa.string()), pa.field("groups", pa.list_(pa.int32())), *_TEXTS]
)


@dataclasses.dataclass(frozen=True)
class DrawMeasured(RowAlignedStage):
    """Gathers held-out query texts and draws a general mix of the corpus by hash.

    Takes splits and writes `texts.parquet`, which holds no copy of a training text. A held-out text of two query groups
    is stored once and measured for both.

    Args:
      corpus: The corpus.
      drawn: The draws of the contenders' training texts.
      held_out: The query groups to measure on: the texts a group sets aside or, if it sets none aside, all its texts.
      most_held_out: The most held-out texts of each group.
      num_general: Texts of the general mix.
      seed: Seed of the draws.
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
        """Folder of the row-aligned files: the stage's own, as the draw depends on the size of the whole corpus."""
        return self.path("rows")

    def work(self, sizes: Sizes) -> Work:
        own = pass_over(sizes.corpus, "draw")
        return dataclasses.replace(own, bytes_read=sizes.corpus.stored_bytes)

    def expected_tokens(self, sizes: Sizes) -> int:
        """Estimates the tokens of the measured texts."""
        general = min(self.num_general, sizes.corpus.documents) * sizes.corpus.mean_tokens
        shares = (HELD_OUT_SHARE if query.sets_aside else 1.0 for query in self.held_out)
        held_out = (
            min(share * group.documents, self.most_held_out) * group.mean_tokens
            for share, group in zip(shares, sizes.held_out, strict=True)
        )
        return round(general + sum(held_out))

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
        # Texts are compared by content: a copy under another id would leak into the measurement, too.
        trained = np.concatenate([draw.fingerprints(num_tokens) for draw in self.drawn])
        tables = [self.read_rows(split) for split in self.corpus.splits()]
        texts = [text for table in tables for text in table["text"]]
        keys = [key for table in tables for key in table["key"]]
        general = _Measuring.draw(texts, trained, self.seed, GENERAL, self.num_general)
        prints = fingerprints(texts).tolist()
        # Equal texts share a fingerprint; the first one's key is kept.
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
        """Returns the tokens of every training: those asked for, but no more than any contender has for any seed.

        Raises:
          UsageError: If a contender has no tokens.
        """
        # All contenders train on the same number of tokens; otherwise their losses could not be compared.
        tokens = {drawn.contender: min(drawn.tokens()) for drawn in self.drawn}
        # The contender with the fewest tokens sets the length of all trainings.
        name = min(tokens, key=lambda name: tokens[name])
        if not tokens[name]:
            raise UsageError(f"no text to train on in the selection of {name}")
        return min(self.drawn[0].draws.num_tokens, tokens[name])

    def counts(self) -> dict[str, dict[str, int]]:
        """Reads, for each set, the number of `texts` and of texts left out because they are `trained_on`."""
        found = read_json(self.artifact)
        return {name: found[name] for name in (HELD_OUT, GENERAL)}

    def group_counts(self) -> dict[str, dict[str, int]]:
        """Reads the same counts for the held-out texts of each query group, in order."""
        found = read_json(self.artifact)["groups"]
        return {query.name: found[query.name] for query in self.held_out}

    @once_per_process
    def texts(self) -> dict[str, list[str]]:
        """Reads the texts of each set."""
        return {name: self._read(name, "text") for name in (HELD_OUT, GENERAL)}

    def groups(self) -> np.ndarray:
        """Reads the held-out texts of each query group, as a mask, bool [num_groups, num_texts]."""
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
    """The measured texts of a set or of a query group.

    Attributes:
      texts: The texts by fingerprint, in the order of the draw.
      trained_on: Fingerprints of the texts that are left out because a contender trains on them.
    """

    texts: dict[int, str]
    trained_on: frozenset[int]

    @classmethod
    def draw(
        cls, found: list[str], trained: np.ndarray, seed: int, name: str, most: int
    ) -> "_Measuring":
        # By fingerprint, so that neither copies nor the order of the texts change the draw.
        prints, first = np.unique(fingerprints(found), return_index=True)
        is_free = ~np.isin(prints, trained)
        order = seeding.lowest(seed, name, prints[is_free], most)
        drawn = zip(prints[is_free][order].tolist(), first[is_free][order], strict=True)
        texts = {fingerprint: found[i] for fingerprint, i in drawn}
        return cls(texts, frozenset(prints[~is_free].tolist()))

    def counts(self) -> dict[str, int]:
        return {"texts": len(self.texts), "trained_on": len(self.trained_on)}
