import numpy as np
import pytest

from beam_quad.selection import Kept, count_rows, source_of


@pytest.mark.parametrize(
    ("shard", "source"),
    [
        ("wiki/en/part-00001.parquet", "wiki"),
        ("2024/a.jsonl.gz", "2024"),
        ("part-00001.parquet", "part"),
        ("web_0001.jsonl.zst", "web"),
        ("code-00003-of-00128.parquet", "code"),
        ("books12.parquet", "books"),
        ("c4-en.2.jsonl", "c4-en"),
        ("notes.txt", "notes"),
        ("000001.parquet", "000001"),
    ],
)
def test_a_source_is_the_top_folder_or_the_name_without_its_number(shard, source):
    assert source_of(shard) == source


def kept_of(rows, cluster=None, unscorable=(), target=None):
    none = np.full(len(rows), -1)
    cluster = none if cluster is None else np.array(cluster)
    unscorable = np.array(unscorable, np.int64)
    return Kept(
        np.array(rows, np.int64), cluster, none, none, none, none, unscorable, target=target
    )


USABLE = np.array([True, True, False, True, True, True])
TOKENS = np.array([10, 20, 0, 30, 40, 50])
# The last is too long for the budget.
CANDIDATES = np.array([True, True, False, True, True, False])


def test_every_row_is_selected_not_selected_or_rejected_and_tokens_are_those_of_its_own():
    kept = kept_of([0, 3], cluster=[5, 5], unscorable=[4])
    counts = count_rows("wiki/a.parquet", USABLE, CANDIDATES, TOKENS, {"empty_text": 1}, kept)
    assert counts.counts == {
        "read": 6,
        "rejected": 2,
        "selected": 2,
        "not_selected": 2,
        "tokens_read": 150,
        "tokens_selected": 40,
        "passed_over": 1,
        "tokens_passed_over": 50,
        "rejected/empty_text": 1,
        "rejected/not_finite": 1,
        "source/wiki/documents": 4,
        "source/wiki/tokens": 150,
        "source/wiki/rejected": 2,
        "source/wiki/selected_documents": 2,
        "source/wiki/selected_tokens": 40,
        "cluster/5/documents": 2,
        "cluster/5/tokens": 40,
    }


def test_a_row_that_is_selected_and_rejected_both_shows_in_the_sum():
    counts = count_rows(
        "a.parquet", USABLE, CANDIDATES, TOKENS, {"empty_text": 1}, kept_of([2, 4], [0, 0], [4])
    )
    accounted = counts["selected"] + counts["not_selected"] + counts["rejected"]
    assert accounted == counts["read"] + 2


def test_what_is_selected_is_counted_by_cluster_and_by_target():
    kept = kept_of([0, 1, 4, 5], cluster=[7, 3, 7, -1], target=["law", "code", "law", "law"])
    counts = count_rows("a.parquet", USABLE, CANDIDATES, TOKENS, {}, kept).counts
    assert {name: count for name, count in counts.items() if name.startswith(("clus", "targ"))} == {
        "cluster/3/documents": 1,
        "cluster/3/tokens": 20,
        "cluster/7/documents": 2,
        "cluster/7/tokens": 50,
        "target/code/documents": 1,
        "target/code/tokens": 20,
        "target/law/documents": 3,
        "target/law/tokens": 100,
    }
