"""Typical texts of clusters, from the reserve, or else from the input."""

import heapq
from collections.abc import Iterable, Sequence

import numpy as np

from beam_quad.artifacts import aligned
from beam_quad.records import Split
from beam_quad.stages.clusters.assign import AssignClusters
from beam_quad.stages.read.corpus import piece_path
from beam_quad.stages.read.examples import read_examples

# The most splits to read, evenly spaced; a small corpus is read whole.
_MOST_SPLITS = 16
_BATCH_ROWS = 1024
# For clusters without a text in the reserve: the input is slow to read, and a few texts show what a small cluster is about.
_MOST_READ, _FEW_TEXTS = 4, 3


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
      The texts by cluster, nearest first; fewer than `number`, or none, if the splits read hold fewer.
    """
    corpus = clusters.corpus
    nearest: dict[int, list[tuple[float, int, str]]] = {cluster: [] for cluster in shown}
    wanted = np.array(sorted(nearest), np.int64)
    splits = corpus.splits()
    # Spread over the corpus, because neighbouring files are often of one source.
    spaced = splits[:: max(1, -(-len(splits) // _MOST_SPLITS))]
    looked_at = [split for split in spaced if split.shard not in corpus.bad_shards()]
    for split in looked_at:
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
    found = {c: [text for *_, text in sorted(kept, reverse=True)] for c, kept in nearest.items()}
    # A small cluster may have no text in the reserve; only then is the input read again.
    missing = [cluster for cluster, texts in found.items() if not texts]
    return found | _texts_of_input(clusters, missing, looked_at, characters)


def _texts_of_input(
    clusters: AssignClusters, missing: Sequence[int], splits: Sequence[Split], characters: int
) -> dict[int, list[str]]:
    """Reads texts of clusters from the first splits that have some, the nearest to the center first."""
    found: dict[int, list[str]] = {}
    num_read = 0
    for split in splits:
        left = [cluster for cluster in missing if cluster not in found]
        if not left or num_read == _MOST_READ:
            break
        own, similarity = clusters.read(split)
        rows = {}
        for cluster in left:
            at = np.flatnonzero(own == cluster)
            rows[cluster] = at[np.argsort(-similarity[at], kind="stable")][:_FEW_TEXTS].tolist()
        wanted = [row for of_cluster in rows.values() for row in of_cluster]
        if not wanted:
            continue
        num_read += 1
        texts = {row: text for row, _, text in read_examples(clusters.corpus, split, wanted)}
        for cluster, of_cluster in rows.items():
            if of_cluster:
                found[cluster] = [texts[row][:characters] for row in of_cluster]
    return found
