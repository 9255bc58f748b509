"""Texts of the corpus, sampled by hash."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_quad import identity, seeding
from beam_quad.additive import Tally
from beam_quad.artifacts import aligned, files
from beam_quad.plan.work import Sizes, Work
from beam_quad.records import Split
from beam_quad.stages.base import GroupedStage
from beam_quad.stages.read.corpus import Corpus, piece_path
from beam_quad.stages.read.embed import RESERVE_SCHEMA

# A few groups made by hash: their ordered sum does not depend on the number of workers.
NUM_GROUPS = 8


@dataclasses.dataclass(frozen=True)
class SampleTexts(GroupedStage):
    """Draws about `num_examples` texts from the reserve by hash, and puts them in `NUM_GROUPS` files, sorted by key.

    Takes splits; the drawn texts cross the shuffle, packed by split and group.

    Args:
      corpus: The corpus.
      num_examples: How many texts are wanted.
      label: Name of the stage in a chain, in CapWords.
      line: Line of the plan that the stage is priced in.
    """

    kind = "sample"
    version = 3
    artifact_name = "sample.json"

    corpus: Annotated[
        Corpus,
        identity.CountedAs(
            Corpus.texts,
            "a run with another embedder shares the sample, and all that is fitted on it",
        ),
    ]
    num_examples: int
    label: Annotated[str, identity.NotCounted("a name for people")] = "SampleTexts"
    line: Annotated[str, identity.NotCounted("a name for people")] = "curvature"

    @property
    def name(self) -> str:
        return self.label

    @property
    def root(self) -> str:
        return self.corpus.root

    def work(self, sizes: Sizes) -> Work:
        number = self.expected(sizes)
        drawn = number * sizes.corpus.mean_stored_bytes
        return Work(self.line, number, bytes_shuffled=drawn, bytes_stored=drawn)

    def expected(self, sizes: Sizes) -> int:
        """Returns the expected number of texts."""
        return min(self.num_examples, sizes.corpus.documents)

    def pieces(self) -> tuple[Split, ...]:
        return self.corpus.splits()

    def draw(self, piece: Split) -> Iterator[tuple[int, bytes]]:
        corpus = self.corpus
        # Texts without embedding are included, because another run may embed them.
        rows = corpus.distinct_rows(piece)
        if not rows.usable.any():
            return
        # The reserve is itself a sample, so the rate among its texts is higher.
        rate = self.num_examples / max(1.0, corpus.num_distinct() * corpus.reserve_rate)
        with files.open_read(piece_path(corpus.reserve_dir, piece)) as file:
            parquet = pq.ParquetFile(file)
            for i in range(parquet.num_row_groups):
                # Keys are read first: most row groups of a large corpus hold no drawn text and are skipped.
                head = parquet.read_row_group(i, columns=["row", "key"])
                keys = head.column("key").to_numpy()
                usable = rows.usable[head.column("row").to_numpy()]
                drawn = np.flatnonzero(seeding.is_drawn(corpus.seed, "sample", keys, rate) & usable)
                if not len(drawn):
                    continue
                table = parquet.read_row_group(i).take(pa.array(drawn))
                groups = seeding.mix(corpus.seed, "sample_group", keys[drawn]) % np.uint64(
                    NUM_GROUPS
                )
                for group in np.unique(groups):
                    part = table.take(pa.array(np.flatnonzero(groups == group)))
                    yield int(group), aligned.pack(part)

    def put_together(self, group: int, parts: Iterable[bytes]) -> Tally:
        # Parts arrive in any order, and sums over the texts are to have the same bits.
        table = aligned.unpack(parts).sort_by("key").combine_chunks()
        columns = {name: table.column(name).combine_chunks() for name in RESERVE_SCHEMA.names}
        aligned.write_table(self.group_path(group), RESERVE_SCHEMA, columns)
        return Tally({"examples": table.num_rows})

    def read_group(self, group: int) -> tuple[list[str], list[str]]:
        """Reads the ids and texts of a group; empty lists for an empty group."""
        path = self.group_path(group)
        if not files.exists(path):
            return [], []
        table = aligned.read_table(path)
        return table.column("example_id").to_pylist(), table.column("text").to_pylist()
