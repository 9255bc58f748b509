"""Typical texts of clusters, from the reserve."""

import heapq
from collections.abc import Iterable

import numpy as np

from beam_quad.artifacts import aligned
from beam_quad.stages.clusters.assign import AssignClusters
from beam_quad.stages.read.corpus import piece_path

# The most splits to read, evenly spaced; a small corpus is read whole.
_MOST_SPLITS = 16
_BATCH_ROWS = 1024


def typical_texts(
    clusters: AssignClusters, shown: Iterable[int], number: int, characters: int
) -> dict[int, list[str]]:
    """Finds the texts nearest to the centers of some clusters.

    Args:
      clusters: The clusters.
      shown: Ids of the clusters to look for.
      number: Texts per cluster.
      characters: Length at which a text is cut.

    Returns:
      The texts by cluster, nearest first; fewer than `number` if the splits read hold fewer.
    """
    corpus = clusters.corpus
    nearest: dict[int, list[tuple[float, int, str]]] = {cluster: [] for cluster in shown}
    wanted = np.array(sorted(nearest), np.int64)
    splits = corpus.splits()
    for split in splits[:: max(1, -(-len(splits) // _MOST_SPLITS))]:
        if split.shard in corpus.bad_shards():
            continue
        own, similarity = clusters.read(split)
        path = piece_path(corpus.reserve_dir, split)
        for batch in aligned.read_batches(path, ["row", "key", "text"], _BATCH_ROWS):
            at = batch.column("row").to_numpy()
            texts, keys = batch.column("text"), batch.column("key")
            for place in np.flatnonzero(np.isin(own[at], wanted)).tolist():
                # The key breaks ties, so the result does not depend on the order of the rows.
                row = int(at[place])
                entry = (float(similarity[row]), int(keys[place].as_py()))
                kept = nearest[int(own[row])]
                if len(kept) < number:
                    heapq.heappush(kept, (*entry, texts[place].as_py()[:characters]))
                elif entry > kept[0][:2]:
                    heapq.heapreplace(kept, (*entry, texts[place].as_py()[:characters]))
    return {c: [text for *_, text in sorted(kept, reverse=True)] for c, kept in nearest.items()}
