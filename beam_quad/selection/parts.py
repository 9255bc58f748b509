"""How the output is cut into files."""

from collections.abc import Sequence

from beam_quad.records import Split

# Trainers read files of about 100 MB well; the limit on splits keeps the worker of a part busy for a few minutes at
# most.
PART_BYTES = 128 << 20
MAX_SPLITS_PER_PART = 64


def part_runs(
    splits: Sequence[Split], share: float, max_splits: int = MAX_SPLITS_PER_PART
) -> list[tuple[int, int]]:
    """Cuts the splits into runs whose selected part is expected to be about `PART_BYTES`.

    Args:
      splits: All splits.
      share: Selected share of the corpus, in [0, 1].
      max_splits: The most splits of a run.

    Returns:
      (first, last) of each run, `last` excluded.
    """
    runs, first, size = [], 0, 0.0
    for index, split in enumerate(splits):
        # As if the selection were spread evenly: what is selected of a split is known only when the part is written.
        size += share * split.size_bytes
        if size >= PART_BYTES or index + 1 - first == max_splits:
            runs.append((first, index + 1))
            first, size = index + 1, 0.0
    if first < len(splits):
        runs.append((first, len(splits)))
    return runs
