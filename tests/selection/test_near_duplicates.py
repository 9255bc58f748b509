"""Which of near-duplicates stays, held to exact Jaccard similarities and to brute force."""

import hashlib
import itertools

import numpy as np
import pytest

from beam_quad.selection.near_duplicates import (
    NUM_HASHES,
    Links,
    band_rows,
    bands,
    components,
    find_twins,
    link_equal,
    sign,
    similarities,
    without_near_duplicates,
)

RNG = np.random.default_rng(0)
WORDS = [f"w{i}" for i in range(3000)]


def text(num_words: int = 200) -> list[str]:
    return RNG.choice(WORDS, num_words).tolist()


def edited(words: list[str], share: float) -> list[str]:
    changed = list(words)
    for i in RNG.choice(len(words), round(share * len(words)), replace=False):
        changed[i] = f"new{RNG.integers(10**6)}"
    return changed


def jaccard(left: list[str], right: list[str]) -> float:
    pairs = [set(itertools.pairwise(words)) for words in (left, right)]
    return len(pairs[0] & pairs[1]) / len(pairs[0] | pairs[1])


def stays(texts: list[str], priorities: list[int], held: tuple[int, ...] = (), **options):
    is_held = np.isin(np.arange(len(texts)), held)
    return find_twins(sign(texts), np.array(priorities, np.uint64), is_held, **options).tolist()


def test_signatures_estimate_the_jaccard_similarity_of_pairs_of_words():
    originals = [text() for _ in range(60)]
    copies = [edited(words, share) for words in originals for share in (0.02, 0.1, 0.3, 0.9)]
    pairs = list(zip([words for words in originals for _ in range(4)], copies, strict=True))
    exact = np.array([jaccard(*pair) for pair in pairs])
    signed = [sign([" ".join(words) for words in side]) for side in zip(*pairs, strict=True)]
    errors = similarities(*signed) - exact
    spread = np.sqrt(exact * (1 - exact) / NUM_HASHES)
    assert abs(errors.mean()) < 3 * np.sqrt((spread**2).mean() / len(errors)) + 1 / 2**16
    assert np.sqrt((errors**2).mean()) < 1.2 * np.sqrt((spread**2).mean())


def test_a_signature_stays_what_it_is_because_it_is_stored():
    digest = hashlib.sha256(sign(["It was the best of times", "", "天地玄黄"]).tobytes())
    assert digest.hexdigest()[:16] == "2b02c20d53bfecd6"


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("One  two\nthree.", "one TWO, three"),
        ("?!", "?!"),
        ("word", "WORD "),
        ("天地玄黄", "天地 玄黄。"),
    ],
)
def test_case_white_space_and_punctuation_make_no_difference(left, right):
    assert (sign([left]) == sign([right])).all()


@pytest.mark.parametrize(
    ("left", "right"),
    [("?!", "!?"), ("one", "two"), ("one two", "two one"), ("天地玄黄", "天地人和")],
)
def test_other_words_and_another_order_do(left, right):
    assert similarities(sign([left]), sign([right]))[0] < 0.5


def test_a_signature_does_not_depend_on_the_texts_beside_it():
    texts = [" ".join(text(RNG.integers(1, 9))) for _ in range(40)] + ["", "one"]
    alone = np.concatenate([sign([own]) for own in texts])
    assert (sign(texts) == alone).all()
    assert sign([]).shape == (0, NUM_HASHES)


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.8, 0.95, 1.0])
def test_pairs_at_the_threshold_share_a_band_nineteen_times_in_twenty(threshold):
    num_pairs = 2000
    left = RNG.integers(0, 1 << 16, (num_pairs, NUM_HASHES)).astype(np.uint16)
    is_other = RNG.random(left.shape) >= threshold
    right = np.where(is_other, left + 1, left).astype(np.uint16)
    shares = (bands(left, threshold) == bands(right, threshold)).any(axis=1).mean()
    assert shares > 0.935
    rows = band_rows(threshold)
    assert rows == 16 or 1 - (1 - threshold ** (rows + 1)) ** (NUM_HASHES // (rows + 1)) < 0.95


@pytest.mark.parametrize("threshold", [0.0, 1.01, float("nan")])
def test_a_threshold_that_no_similarity_can_be_is_refused(threshold):
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\]"):
        band_rows(threshold)


def test_of_a_family_the_highest_stays_and_of_equals_the_first():
    words = text()
    texts = [" ".join(own) for own in (words, edited(words, 0.05), text(), words, text())]
    assert stays(texts, [1, 3, 9, 2, 8]) == [1, 1, 2, 1, 4]
    assert stays(texts, [5, 5, 5, 5, 5]) == [0, 0, 2, 0, 4]


def test_what_is_held_stays_and_takes_the_place_of_what_ranks_higher():
    words = text()
    texts = [" ".join(own) for own in (words, edited(words, 0.05), words, text())]
    assert stays(texts, [1, 9, 0, 5], held=(0, 2)) == [0, 0, 2, 3]


def test_copies_edited_at_different_places_are_one_family_through_their_original():
    words = text(400)
    copies = [edited(words, 0.1) for _ in range(2)]
    assert jaccard(*copies) < 0.55 < 0.62 < min(jaccard(words, own) for own in copies)
    texts = [" ".join(own) for own in (*copies, words)]
    assert stays(texts, [3, 2, 1]) == [0, 0, 0]
    assert stays(texts[:2], [3, 2]) == [0, 1]


@pytest.mark.parametrize(("threshold", "expected"), [(0.8, [0, 0, 2]), (0.95, [0, 1, 2])])
def test_documents_below_the_threshold_both_stay(threshold, expected):
    words = text(1000)
    texts = [" ".join(own) for own in (words, edited(words, 0.02), edited(words, 0.2))]
    assert stays(texts, [3, 2, 1], threshold=threshold) == expected


def test_the_families_are_those_of_all_pairs_whatever_the_order():
    families = [text(150) for _ in range(30)]
    texts = [edited(families[i % 30], RNG.choice([0.0, 0.03, 0.1])) for i in range(200)]
    signatures = sign([" ".join(words) for words in texts])
    priorities = RNG.permutation(200).astype(np.uint64)
    similar = (signatures[:, None] == signatures[None]).mean(axis=2) >= 0.6
    reached = np.linalg.matrix_power(similar.astype(float), 16) > 0
    best = [max(np.flatnonzero(row), key=priorities.__getitem__) for row in reached]
    order = RNG.permutation(200)
    none = np.zeros(200, bool)
    assert find_twins(signatures, priorities, none).tolist() == best
    assert order[find_twins(signatures[order], priorities[order], none)].tolist() == [
        best[i] for i in order
    ]


def test_thousands_of_copies_of_a_text_are_one_family():
    signatures = np.repeat(sign([" ".join(text()), " ".join(text())]), 5000, axis=0)
    twins = find_twins(signatures, np.arange(10_000, dtype=np.uint64), np.zeros(10_000, bool))
    assert set(twins[:5000].tolist()) == {4999}
    assert set(twins[5000:].tolist()) == {9999}


def test_links_connect_what_shares_a_bucket_and_their_sum_what_any_of_them_connects():
    hashes = np.array([7, 8, 7, 9, 7], np.uint64)
    links = Links(*link_equal(hashes, np.array([10, 11, 12, 13, 14], np.uint64)))
    assert list(zip(links.left.tolist(), links.right.tolist(), strict=True)) == [(10, 12), (10, 14)]
    more = Links(np.array([12, 20], np.uint64), np.array([11, 21], np.uint64))
    for total in (
        links + more,
        more + links,
        (links + more).spanning(),
        Links.none() + more + links,
    ):
        rows, labels = components(total.left, total.right)
        assert rows.tolist() == [10, 11, 12, 14, 20, 21]
        assert len(set(labels[:4])) == len(set(labels[4:])) == 1
        assert labels[0] != labels[4]
    assert len((links + more + links).spanning().left) == 4


def test_a_budget_is_filled_from_the_ranking_even_where_a_few_budgets_are_all_copies():
    copies, others = " ".join(text()), [" ".join(text()) for _ in range(20)]
    texts = [copies] * 80 + others
    packed = np.arange(100, 0, -1).astype(np.uint64)
    kept = without_near_duplicates(packed, texts, np.full(100, 10), budget=100)
    assert np.flatnonzero(kept).tolist() == [0, *range(80, 100)]


def test_below_what_a_few_budgets_reach_nothing_is_compared_if_the_rest_fills_one():
    texts = [" ".join(text()) for _ in range(60)] + [" ".join(text())] * 2
    texts[1] = texts[0]
    packed = np.arange(62, 0, -1).astype(np.uint64) << np.uint64(32)
    kept = without_near_duplicates(packed, texts, np.full(62, 10), budget=100)
    assert np.flatnonzero(kept == 0).tolist() == [1]
