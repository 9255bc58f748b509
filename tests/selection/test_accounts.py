import json

import numpy as np
import pytest

from beam_quad.additive import ByName, Tally
from beam_quad.records import as_json
from beam_quad.selection import Amount, Kept, RowCounts, SourceCounts, count_rows, source_of


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


WIKI = [("wiki/a.parquet", slice(None))]
USABLE = np.array([True, True, False, True, True, True])
TOKENS = np.array([10, 20, 0, 30, 40, 50])
# The last is too long for the budget.
CANDIDATES = np.array([True, True, False, True, True, False])


def test_every_row_is_selected_not_selected_or_rejected_and_tokens_are_those_of_its_own():
    kept = kept_of([0, 3], cluster=[5, 5], unscorable=[4])
    counts = count_rows(WIKI, USABLE, CANDIDATES, TOKENS, {"empty_text": 1}, kept)
    source = SourceCounts(documents=4, tokens=150, rejected=2, selected=Amount(2, 40))
    assert counts == RowCounts(
        read=6,
        rejected=2,
        not_selected=2,
        selected=Amount(2, 40),
        usable_tokens=150,
        passed_over=Amount(1, 50),
        reasons=Tally({"empty_text": 1, "not_finite": 1}),
        sources=ByName({"wiki": source}),
        clusters=ByName({"5": Amount(2, 40)}),
    )


def test_the_rows_of_joined_shards_count_for_their_own_sources():
    kept = kept_of([0, 3], cluster=[5, 5], unscorable=[4])
    shards = [("wiki/a", slice(0, 2)), ("web/none", slice(2, 2)), ("web/a", slice(2, 4))]
    shards.append(("wiki/b", slice(4, 6)))
    counts = count_rows(shards, USABLE, CANDIDATES, TOKENS, {"empty_text": 1}, kept)
    wiki = SourceCounts(documents=3, tokens=120, rejected=1, selected=Amount(1, 10))
    web = SourceCounts(documents=1, tokens=30, rejected=1, selected=Amount(1, 30))
    assert counts.sources == ByName({"wiki": wiki, "web": web})


def test_counts_come_back_from_json():
    kept = kept_of([0, 3], cluster=[5, -1], unscorable=[4], target=["law", "code"])
    counts = count_rows(WIKI, USABLE, CANDIDATES, TOKENS, {"empty_text": 1}, kept)
    assert RowCounts.from_json(json.loads(json.dumps(as_json(counts)))) == counts


def test_a_row_that_is_selected_and_rejected_both_shows_in_the_sum():
    counts = count_rows(
        [("a.parquet", slice(None))],
        USABLE,
        CANDIDATES,
        TOKENS,
        {"empty_text": 1},
        kept_of([2, 4], [0, 0], [4]),
    )
    accounted = counts.selected.documents + counts.not_selected + counts.rejected
    assert accounted == counts.read + 2


def test_what_is_selected_is_counted_by_cluster_and_by_target():
    kept = kept_of([0, 1, 4, 5], cluster=[7, 3, 7, -1], target=["law", "code", "law", "law"])
    counts = count_rows([("a.parquet", slice(None))], USABLE, CANDIDATES, TOKENS, {}, kept)
    assert counts.clusters == ByName({"3": Amount(1, 20), "7": Amount(2, 50)})
    assert counts.targets == ByName({"code": Amount(1, 20), "law": Amount(3, 100)})
    assert counts.of_cluster(3) == Amount(1, 20)
    assert counts.of_target("art") == Amount()
