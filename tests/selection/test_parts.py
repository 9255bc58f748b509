import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from beam_quad.records import Split
from beam_quad.selection import part_runs
from beam_quad.selection.parts import MAX_SPLITS_PER_PART, PART_BYTES

MB = 1 << 20


def splits(sizes):
    return tuple(
        Split(f"{i}.jsonl", 0, 0, 0, -1, f"/corpus/{i}.jsonl", size, "")
        for i, size in enumerate(sizes)
    )


def test_a_part_ends_with_the_split_that_fills_it():
    # Half of 100 MB each: the third fills 128 MB.
    assert part_runs(splits([100 * MB] * 7), 0.5) == [(0, 3), (3, 6), (6, 7)]
    assert part_runs(splits([128 * MB, 127 * MB, 1 * MB, MB]), 1.0) == [(0, 1), (1, 3), (3, 4)]
    assert part_runs((), 1.0) == []


def test_a_part_is_gathered_from_at_most_so_many_splits():
    runs = part_runs(splits([MB] * 130), 0.0)
    assert runs == [(0, 64), (64, 128), (128, 130)]


@given(
    sizes=st.lists(st.integers(0, 3 * PART_BYTES), max_size=200), share=st.sampled_from([0.01, 0.3, 1])
)  # fmt: skip
def test_parts_are_all_the_splits_in_order_and_none_could_have_ended_before(sizes, share):
    runs = part_runs(splits(sizes), share)
    assert [i for first, last in runs for i in range(first, last)] == list(range(len(sizes)))
    for first, last in runs[:-1]:
        is_full = share * np.sum(sizes[first:last]) >= PART_BYTES * (1 - 1e-9)
        assert is_full or last - first == MAX_SPLITS_PER_PART
    for first, last in runs:
        assert first < last <= first + MAX_SPLITS_PER_PART
        assert share * np.sum(sizes[first : last - 1]) < PART_BYTES * (1 + 1e-9)
