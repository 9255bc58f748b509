"""Texts that stand for clusters, from those that are set aside."""

import heapq
from collections.abc import Iterable

import numpy as np

from beam_quad.artifacts import aligned
from beam_quad.stages.clusters.assign import AssignClusters
from beam_quad.stages.read.corpus import piece_path

# The files of so many splits are read, evenly spaced: all of a small corpus.
_MOST_SPLITS = 16
_BATCH_ROWS = 1024


def typical_texts(
    clusters: AssignClusters, shown: Iterable[int], number: int, characters: int
) -> dict[int, list[str]]:
    """Finds texts that are near to the centers of some clusters.

    Args:
      clusters: The clusters.
      shown: Ids of those that are wanted.
      number: How many texts of each.
      characters: A text is cut there.

    Returns:
      The texts by cluster, the nearest first; fewer, or none, of a cluster that has few texts where they are looked for.
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
                # The key decides between texts that are equally near.
                row = int(at[place])
                entry = (float(similarity[row]), int(keys[place].as_py()))
                kept = nearest[int(own[row])]
                if len(kept) < number:
                    heapq.heappush(kept, (*entry, texts[place].as_py()[:characters]))
                elif entry > kept[0][:2]:
                    heapq.heapreplace(kept, (*entry, texts[place].as_py()[:characters]))
    return {c: [text for *_, text in sorted(kept, reverse=True)] for c, kept in nearest.items()}
