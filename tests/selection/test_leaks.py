"""Leaks, held to a plain search for shared n-grams, and planted ones."""

import re

import numpy as np
import pytest

from beam_quad.selection import leaks
from beam_quad.selection.leaks import FEWEST_WORDS, LeakIndex, Words, ngram_words

WORDS = [f"w{i}" for i in range(400)]


def passage(rng, length):
    return " ".join(rng.choice(WORDS, length))


def find(index, document):
    """What an index finds in a document, between others."""
    return index.find(["", document, "nothing"])[1]


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def by_search(items, document, length):
    """Shares of each item that a document covers, by comparing all n-grams word by word."""
    own = document.split()
    shares = []
    for item in items:
        words = item.split()
        n = ngram_words(len(words), length)
        grams = {tuple(own[i : i + n]) for i in range(len(own) - n + 1)}
        covered = set()
        for i in range(len(words) - n + 1):
            if tuple(words[i : i + n]) in grams:
                covered.update(range(i, i + n))
        shares.append(len(covered) / len(words))
    return shares


def test_an_item_is_found_if_and_only_if_a_search_word_by_word_finds_it(rng):
    items = [passage(rng, int(n)) for n in rng.integers(8, 100, 40)]
    index = LeakIndex.of(items, 9, 0.4)
    num_found = 0
    for _ in range(300):
        item = items[rng.integers(len(items))].split()
        start = int(rng.integers(len(item)))
        cut = " ".join(item[start : start + int(rng.integers(1, 60))])
        document = f"{passage(rng, int(rng.integers(0, 30)))} {cut} {passage(rng, 20)}"
        shares = by_search(items, document, 9)
        leak = find(index, document)
        if max(shares) <= 0.4:
            assert leak is None
            continue
        num_found += 1
        assert leak.item == int(np.argmax(shares))
        assert leak.share == pytest.approx(max(shares))
        assert leak.matched in document
        assert leak.matched in items[leak.item]
    assert 50 < num_found < 250


@pytest.mark.parametrize(
    ("num_words", "length"), [(8, 8), (15, 8), (16, 5), (39, 5), (40, 8), (103, 8), (104, 13)]
)
def test_short_items_are_looked_for_by_short_n_grams_but_never_by_a_phrase(num_words, length):
    assert ngram_words(num_words, 13) == length


def test_two_changed_words_hide_no_short_item(rng):
    item = passage(rng, 24)
    words = item.split()
    words[7], words[15] = "changed", "too"
    assert find(LeakIndex.of([item], 13, 0.5), " ".join(words)).share == pytest.approx(22 / 24)


def test_case_punctuation_and_white_space_do_not_count(rng):
    item = passage(rng, 30)
    document = re.sub(" ", ",\n ", item.upper()) + "!"
    assert find(LeakIndex.of([item], 13, 0.5), document).share == 1


def test_a_changed_word_costs_that_word_alone(rng):
    words = passage(rng, 40).split()
    changed = [*words[:20], "changed", *words[21:]]
    leak = find(LeakIndex.of([" ".join(words)], 13, 0.5), " ".join(changed))
    assert leak.share == pytest.approx(39 / 40)
    assert leak.matched == " ".join(words[:20])


def test_scripts_without_spaces_are_read_by_characters():
    item = "敏捷的棕色狐狸跳过了懒狗然后回家睡觉"
    index = LeakIndex.of([item], 8, 0.5)
    assert find(index, f"昨天{item}。").share == 1
    assert find(index, "今天天气很好我们去公园散步吧朋友们") is None


def test_a_form_that_many_items_share_is_no_leak_of_any(rng):
    form = passage(rng, 30)
    items = [f"{form} {passage(rng, 20)}" for _ in range(100)]
    index = LeakIndex.of(items, 13, 0.5)
    assert find(index, f"{form} {passage(rng, 50)}") is None
    assert find(index, items[7]).item == 7


def test_phrases_and_repeated_items_are_counted_as_not_looked_for(rng):
    short, long = passage(rng, FEWEST_WORDS - 1), passage(rng, 20)
    index = LeakIndex.of([short, long, long.upper()], 13, 0.5)
    assert index.num_unfindable == 2
    assert find(index, f"{short} {short}") is None
    assert find(index, long).item == 1


def test_an_index_is_read_as_it_was_written_and_an_empty_one_finds_nothing(rng):
    item = passage(rng, 25)
    raw = LeakIndex.of([item], 13, 0.25).to_bytes()
    index = LeakIndex.from_bytes(raw)
    assert index.to_bytes() == raw
    assert find(index, item) is not None
    assert find(LeakIndex.of([], 13, 0.5), item) is None


def test_hashes_of_equal_n_grams_are_equal_wherever_they_stand():
    front, back = Words("a b c d e f g h i"), Words("é ü x y z a b c d e f g h i")
    # The last n-gram of each ends in the word behind its text.
    np.testing.assert_array_equal(front.hashes(8), back.hashes(8)[-3:])
    assert len(np.unique(back.hashes(8))) == 8


def test_texts_are_looked_at_one_by_one_however_many_there_are(rng, monkeypatch):
    items = [passage(rng, 30) for _ in range(20)]
    index = LeakIndex.of(items, 13, 0.5)
    texts = [f"{passage(rng, 9)} {item}" if at % 3 else item[:60] for at, item in enumerate(items)]
    found = index.find(texts)
    assert [leak and leak.item for leak in found] == [at if at % 3 else None for at in range(20)]
    monkeypatch.setattr(leaks, "_MOST_CHARACTERS", 300)
    assert index.find(texts) == found
    # Two halves of an item in two texts are none of them.
    words = items[0].split()
    assert index.find([" ".join(words[:15]), " ".join(words[15:])]) == [None, None]
