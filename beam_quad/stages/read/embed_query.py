"""The embeddings of the query set."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa

from beam_quad import answers, archives, seeding
from beam_quad.additive import ByName, Tally
from beam_quad.artifacts import aligned, files
from beam_quad.artifacts.cache import once_per_process
from beam_quad.artifacts.json_files import read_json, write_json
from beam_quad.clustering import PointSum
from beam_quad.embedding import Embedder
from beam_quad.errors import UsageError
from beam_quad.plan.work import Sizes, Work
from beam_quad.records import Reason
from beam_quad.stages.read.embed import BATCH_ROWS
from beam_quad.stages.read.embedder import EmbedderStage, embedding_work
from beam_quad.stages.read.query import Query, UsedTexts, parts_of
from beam_quad.stages.read.texts import NUM_GROUPS


@dataclasses.dataclass(frozen=True)
class EmbedQuery(EmbedderStage):
    """Embeds the texts of all query groups, with the embedder of the corpus.

    Takes (group number, part of its files); writes one file of vectors per part, then all vectors (`points.npz`), their
    sum (`sum.npz`), and the numbers of used and unused texts per group (`query.json`). A text without a vector is not
    used.

    Args:
      embedder, embedder_fingerprint: As in `EmbedderStage`.
      query: The query set.
    """

    kind = "query_embeddings"
    artifact_name = "query.json"

    query: tuple[Query, ...]

    @property
    def root(self) -> str:
        return self.query[0].root

    def work(self, sizes: Sizes) -> Work:
        flops = sum(sizes.embedder.flops(g.mean_tokens) * g.documents for g in sizes.query)
        return embedding_work("query", self.embedder, sizes.query_documents, flops)

    def pieces(self) -> list[tuple[int, int]]:
        return parts_of(self.query, NUM_GROUPS)

    def prefixes(self) -> tuple[str, ...]:
        return (self.path("parts"),)

    def paths(self, piece: tuple[int, int]) -> tuple[str, ...]:
        group, part = piece
        return (self.path("parts", f"{group:03d}-{part:02d}.parquet"),)

    def statistic(self, piece: tuple[int, int]) -> ByName[UsedTexts]:
        counts = aligned.read_metadata(self.paths(piece)[0])
        return ByName({self.query[piece[0]].name: UsedTexts.from_json(counts)})

    def do(self, piece: tuple[int, int], model: Embedder) -> ByName[UsedTexts]:
        group, part = piece
        found = self.query[group].read(part, NUM_GROUPS)
        vectors = np.zeros((len(found.texts), model.dim), aligned.EMBEDDING_DTYPE)
        for start in range(0, len(found.texts), BATCH_ROWS):
            run = slice(start, start + BATCH_ROWS)
            vectors[run] = model.embed(answers.all_plain(found.texts[run]))
        has_vector = vectors.any(axis=1)
        # The key is a hash of the text, so its draws do not depend on its place in the query set.
        keys = seeding.keys(found.texts)[has_vector]
        without = Tally({Reason.NO_EMBEDDING.value: int((~has_vector).sum())})
        counts = UsedTexts(len(keys), found.unused + without)
        schema = aligned.embeddings_schema(model.dim).append(pa.field("key", pa.uint64()))
        with aligned.table_writer(self.paths(piece)[0], schema) as writer:
            column = aligned.embedding_column(vectors[has_vector])
            writer.write({"embedding": column, "key": keys})
            writer.close(counts.as_json())
        return ByName({self.query[group].name: counts})

    def finish(self, total: ByName[UsedTexts]) -> None:
        if not any(counts.documents for counts in total.named.values()):
            raise UsageError(
                "no text of the query set has an embedding; check --query, or take another --embedder"
            )
        tables = [aligned.read_table(self.paths(piece)[0]) for piece in self.pieces()]
        points = np.concatenate(
            [
                aligned.unpack_vectors(table.column("embedding"), aligned.EMBEDDING_DTYPE)
                for table in tables
            ]
        )
        keys = np.concatenate([table.column("key").to_numpy() for table in tables])
        files.write_once(self.path("points.npz"), archives.dump(points=points, keys=keys))
        files.write_once(self.path("sum.npz"), PointSum.of(points).to_bytes())
        write_json(self.artifact, {name: own.as_json() for name, own in total.named.items()})

    @once_per_process
    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Loads the vectors, unit rows, float32 [num_texts, dim], and the keys of the texts, uint64, once per process."""
        found = archives.parse(files.read_bytes(self.path("points.npz")))
        return found["points"].astype(np.float32), found["keys"]

    @once_per_process
    def point_sum(self) -> PointSum:
        """Loads the sum of the vectors, once per process."""
        return PointSum.from_bytes(files.read_bytes(self.path("sum.npz")))

    def groups(self) -> dict[str, dict[str, Any]]:
        """As `CountsQuery.groups`."""
        found = read_json(self.artifact)
        return {group.name: found[group.name] for group in self.query}
