"""The training texts of a contender, drawn from its selection by hash, anew for each seed."""

import abc
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np
import pyarrow as pa

from beam_quad import identity, seeding
from beam_quad.additive import Tally
from beam_quad.artifacts import aligned, traffic
from beam_quad.artifacts.cache import cached
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.corpus.batches import Columns
from beam_quad.corpus.plan import read_plan
from beam_quad.corpus.rows import read_rows
from beam_quad.corpus.splits import InputPlan
from beam_quad.gradients.windows import tokenize
from beam_quad.plan.work import Sizes, Work, pass_over
from beam_quad.proof import fingerprints, training_order
from beam_quad.records import Split
from beam_quad.stages.base import Stage
from beam_quad.stages.proof.start import Start
from beam_quad.stages.read.corpus import piece_path
from beam_quad.stages.read.embed import BATCH_ROWS
from beam_quad.stages.read.excluded import Excluded
from beam_quad.stages.read.splits import SplitStage
from beam_quad.stages.write.ranked import Selection

# Tokens drawn per token trained on, because the number of tokens in a draw by hash is not exact.
_SPARE = 2.0
_DRAWN = pa.schema(
    [
        pa.field("key", pa.uint64()),
        pa.field("fingerprint", pa.uint64()),
        pa.field("tokens", pa.int64()),
        pa.field("text", pa.large_string()),
    ]
)


@dataclasses.dataclass(frozen=True)
class Draws:
    """The settings of the draws, shared by all contenders.

    Args:
      start: The model to train, whose tokenizer counts the tokens.
      num_seeds: Trainings of each contender.
      num_tokens: Tokens of each training.
    """

    start: Annotated[
        Start,
        identity.CountedAs(lambda start: start.fingerprint, "only its tokenizer is looked at"),
    ]
    num_seeds: int
    num_tokens: int

    def share(self, num_tokens: int) -> float:
        """Returns the share of texts to draw from a selection of `num_tokens` tokens."""
        return min(1.0, _SPARE * self.num_tokens / max(1, num_tokens))

    def by_seed(self, keys: np.ndarray, share: float) -> list[np.ndarray]:
        """Returns, for each seed, which texts are drawn, bool [n]."""
        # Every contender draws a text for the same seeds, so what they share differs little by chance.
        return [seeding.is_drawn(seed, "proof draw", keys, share) for seed in range(self.num_seeds)]

    def count_tokens(self, texts: list[str]) -> list[int]:
        """Counts the tokens of each text."""
        return [len(ids) for ids in tokenize(self.start.tokenizer(), texts)]


class DrawStage(Stage):
    """Draws the texts of a contender. Takes splits, writes one file of texts for each, and counts the tokens per seed.

    Attributes:
      contender: Name of the contender.
      draws: The settings of the draws.
    """

    version = 1
    artifact_name = "drawn.json"

    contender: str
    draws: Draws

    @property
    def name(self) -> str:
        return "Draw" + "".join(part.capitalize() for part in self.contender.split("_"))

    @property
    @abc.abstractmethod
    def columns(self) -> Columns:
        """Columns to read."""

    @abc.abstractmethod
    def share(self) -> float:
        """Share of the texts to draw for each seed."""

    def work(self, sizes: Sizes) -> Work:
        return pass_over(sizes.corpus, "draw")

    @abc.abstractmethod
    def splits(self) -> tuple[Split, ...]:
        """Splits to draw from."""

    @abc.abstractmethod
    def candidates(self, split: Split) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns the selected rows of a split, bool [n], and all keys, uint64 [n]; None if batches must be read first."""

    def readable(self, split: Split) -> Split:
        """Returns the split as it can be read."""
        return split

    def is_drawn_from(self, texts: Sequence[str | None], keys: np.ndarray) -> np.ndarray:
        """Returns the selected rows of a batch, bool [n]; used if `candidates` is None."""
        return np.array([text is not None for text in texts])

    def pieces(self) -> tuple[Split, ...]:
        return self.splits()

    def prefixes(self) -> tuple[str, ...]:
        return (self.path("texts"),)

    def paths(self, piece: Split) -> tuple[str, ...]:
        return (piece_path(self.path("texts"), piece),)

    def statistic(self, piece: Split) -> Tally:
        return Tally(aligned.read_metadata(self.paths(piece)[0]))

    def do(self, piece: Split, model: Any) -> Tally:
        share, total = self.share(), Tally()
        with aligned.table_writer(self.paths(piece)[0], _DRAWN, 1024) as writer:
            for keys, texts in self._drawn(piece, share):
                tokens = np.array(self.draws.count_tokens(texts), np.int64)
                for seed, is_drawn in enumerate(self.draws.by_seed(keys, share)):
                    total += Tally({str(seed): int(tokens[is_drawn].sum())})
                writer.write(
                    {
                        "key": keys,
                        "fingerprint": fingerprints(texts),
                        "tokens": tokens,
                        "text": texts,
                    }
                )
            writer.close(dict(total.counts))
        return total

    def finish(self, total: Tally | None) -> None:
        counts = (total or Tally()).counts
        tokens = [counts.get(str(seed), 0) for seed in range(self.draws.num_seeds)]
        write_json(self.artifact, {"tokens": tokens, "share": self.share()})

    def tokens(self) -> list[int]:
        """Reads the number of tokens drawn for each seed."""
        found: list[int] = read_json(self.artifact)["tokens"]
        return found

    def texts(self, seed: int, num_tokens: int) -> list[str]:
        """Reads the texts of a seed's training on `num_tokens` tokens, in training order."""
        found: list[str] = self._trained_on(seed, num_tokens, "text").to_pylist()
        return found

    def fingerprints(self, num_tokens: int) -> np.ndarray:
        """Reads the fingerprints of the training texts of all seeds, uint64 [n]."""
        found = [
            self._trained_on(seed, num_tokens, "fingerprint").to_numpy()
            for seed in range(self.draws.num_seeds)
        ]
        return np.unique(np.concatenate(found))

    def _trained_on(self, seed: int, num_tokens: int, column: str) -> pa.ChunkedArray:
        share = read_json(self.artifact)["share"]
        tables = []
        for split in self.splits():
            table = aligned.read_table(self.paths(split)[0])
            is_drawn = self.draws.by_seed(table.column("key").to_numpy(), share)[seed]
            tables.append(table.filter(pa.array(is_drawn)))
        table = pa.concat_tables(tables)
        # Ordered by content, so contenders that share a text train on it at similar places.
        order = training_order(seed, table.column("fingerprint").to_numpy())
        ends = np.cumsum(table.column("tokens").to_numpy()[order])
        # The text in which the tokens run out is included; training cuts it off.
        return table.column(column).take(order[: np.searchsorted(ends, num_tokens) + 1])

    def _drawn(self, split: Split, share: float) -> Iterator[tuple[np.ndarray, list[str]]]:
        """Yields keys and texts of the drawn rows of a split, by batch."""
        # A split without a drawn row is not read at all.
        known = self.candidates(split)
        if known is not None and not self._any_seed(known[1], known[0], share).any():
            return
        traffic.count("bytes_read", split.size_bytes)
        first = 0
        for batch in read_rows(self.readable(split), self.columns, batch_rows=BATCH_ROWS):
            rows = slice(first, first + len(batch))
            first += len(batch)
            if known is None:
                keys = seeding.keys(batch.ids)
                selected = self.is_drawn_from(batch.texts, keys)
            else:
                selected, keys = known[0][rows], known[1][rows]
            drawn = np.flatnonzero(self._any_seed(keys, selected, share))
            if len(drawn):
                yield keys[drawn], [batch.texts[i] or "" for i in drawn]

    def _any_seed(self, keys: np.ndarray, selected: np.ndarray, share: float) -> np.ndarray:
        return selected & np.any(self.draws.by_seed(keys, share), axis=0)


@dataclasses.dataclass(frozen=True)
class DrawFromParts(DrawStage):
    """Draws from the parts of a written selection.

    Args:
      artifacts: The folder of all artifacts.
      contender: Name of the contender.
      plan_path: Path of the plan of the parts.
      snapshot: Names and versions of the parts.
      columns_of: Columns of the parts.
      selected_tokens: Tokens of the selection.
      draws: The settings of the draws.
      excluded: Ids that are not drawn even if an earlier run selected them; None for no such ids.
    """

    kind = "proof_parts"
    version = 2

    artifacts: Annotated[str, identity.NotCounted("where artifacts are stored")]
    contender: str
    plan_path: Annotated[str, identity.NotCounted("the snapshot tells what the plan holds")]
    snapshot: str
    columns_of: Columns
    selected_tokens: int
    draws: Draws
    excluded: Excluded | None

    @property
    def root(self) -> str:
        return self.artifacts

    @property
    def columns(self) -> Columns:
        # Parts keep the corpus's ids in a struct. Tokens are counted anew, by the tokenizer of the model that is
        # trained.
        return dataclasses.replace(self.columns_of, id="beam_quad.example_id", tokens=None)

    def plan(self) -> InputPlan:
        """Reads the plan, once per process."""
        return cached(("plan", self.plan_path), lambda: read_plan(self.plan_path))

    def splits(self) -> tuple[Split, ...]:
        return self.plan().splits

    def share(self) -> float:
        return self.draws.share(self.selected_tokens)

    def candidates(self, split: Split) -> None:
        return None

    def is_drawn_from(self, texts: Sequence[str | None], keys: np.ndarray) -> np.ndarray:
        selected = super().is_drawn_from(texts, keys)
        return selected if self.excluded is None else selected & ~self.excluded.holds(keys)


@dataclasses.dataclass(frozen=True)
class DrawFromCorpus(SplitStage, DrawStage):
    """Draws from a policy's selection of the corpus, which is not written anywhere, or from the whole corpus.

    Args:
      corpus: The corpus.
      contender: Name of the policy.
      selection: The policy's selection; None for the whole corpus, so each seed's texts are a random draw.
      selected_tokens: Tokens of the selection; None for those of the corpus.
      draws: The settings of the draws.
    """

    kind = "proof_corpus"

    contender: str
    selection: Selection | None
    selected_tokens: int | None
    draws: Draws

    @property
    def columns(self) -> Columns:
        return self.corpus.columns

    def work(self, sizes: Sizes) -> Work:
        return DrawStage.work(self, sizes)

    def pieces(self) -> tuple[Split, ...]:
        return self.splits()

    def splits(self) -> tuple[Split, ...]:
        return self.corpus.splits()

    def readable(self, split: Split) -> Split:
        return self.corpus.readable(split)

    def share(self) -> float:
        return self.draws.share(self.selected_tokens or self.corpus.totals().tokens)

    def candidates(self, split: Split) -> tuple[np.ndarray, np.ndarray]:
        rows = self.corpus.rows(split, with_strings=self.selection is not None)
        if self.selection is None:
            return rows.usable, rows.keys
        selected = np.zeros(len(rows.keys), bool)
        selected[self.selection.keep(split, rows).rows] = True
        return selected, rows.keys
