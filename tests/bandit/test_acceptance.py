import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_quad.bandit.acceptance import take_blocks, take_examples


def test_blocks_are_taken_best_first_and_the_last_is_cut():
    order, taken = take_blocks(
        influence=np.array([1.0, 4.0, 2.0, np.nan, 3.0]),
        tokens=np.array([50, 50, 50, 50, 50]),
        room=np.array([99, 99, 99, 99, 20]),
        ties=np.arange(5, dtype=np.uint64),
        tau=1.0,
        left_tokens=90,
    )
    assert order.tolist() == [1, 4, 2]
    assert taken.tolist() == [50, 20, 20]


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), left=st.integers(1, 400), room=st.integers(1, 200))
def test_examples_are_taken_as_a_loop_would_take_them(seed, left, room):
    rng = np.random.default_rng(seed)
    influence, tokens = rng.integers(0, 5, 30).astype(np.float64), rng.integers(2, 40, 30)
    cluster_id, keys = rng.integers(0, 3, 30), rng.permutation(30).astype(np.uint64)
    rooms = np.array([room, 1000, 1000])
    taken, full, is_full = take_examples(influence, tokens, cluster_id, keys, rooms, 1.0, left)

    expected, closed, left_over = [], set(), left
    for at in sorted(range(30), key=lambda i: (-influence[i], keys[i])):
        given_already = sum(tokens[i] for i in expected if cluster_id[i] == cluster_id[at])
        if influence[at] < 1.0 or cluster_id[at] in closed:
            continue
        if given_already + tokens[at] > rooms[cluster_id[at]]:
            closed.add(cluster_id[at])
        elif tokens[at] > left_over:
            break
        else:
            expected.append(at)
            left_over -= tokens[at]
    assert taken.tolist() == expected
    assert closed <= set(full.tolist())
    assert tokens[taken].sum() <= left
    assert is_full or left_over > 0
