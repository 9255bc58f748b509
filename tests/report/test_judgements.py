"""What a run is judged to be, by what its manifest and its report's data say."""

import dataclasses
import math

import numpy as np
import pytest

from beam_quad.report import data as shown
from beam_quad.report import judgements
from tests.report.made import manifest

PLAIN = {
    "config": {},
    "shortfall": None,
    "counts": {"bad_files": 0},
    "passed_over": {"documents": 0, "tokens": 0, "longer_than": None},
    "near_duplicates": {"documents": 0, "tokens": 0},
    "columns": {"json_text": {}, "escaped": [], "renamed": {}, "files_without_usable_rows": []},
}
TARGET = {"predicted": 3, "held_out_rank_correlation": 0.9, "halves": 0.9}
QUERY = {"used": 89, "unused": {"empty_text": 11}}
AMOUNT = {"documents": 2, "tokens": 90}
REFRESH = {
    "kept": AMOUNT,
    "added": AMOUNT,
    "left": {"shard_gone": AMOUNT},
    "splits": {"new": 1, "kept": 2, "gone": 1, "changed": 0},
    "added_harmful": 0,
    "words": ["new files drift"],
}


def test_a_run_of_which_there_is_nothing_to_know_has_no_notices():
    assert judgements.judge(PLAIN) == ()


@pytest.mark.parametrize(
    ("change", "level", "claim"),
    [
        ({"shortfall": "9 tokens are missing"}, "warning", "9 tokens are missing"),
        ({"counts": {"bad_files": 2}}, "warning", "input files that were unreadable and are left out: 2"),
        ({"excluded": {"ids": 7, "rows": 0}}, "warning", "no row has one of the 7 ids"),
        ({"refresh": REFRESH | {"added_harmful": 4}}, "warning", "4 of the documents that were"),
        ({"refresh": REFRESH}, "note", "since the last run: 2 kept, 2 added, 2 left (its file is gone); 1 of 3 pieces of the input is new, 1 of the last run is gone"),
        ({"refresh": REFRESH}, "note", "new files drift"),
        ({"query": {"query": QUERY}}, "warning", "89 of 100 query texts are used, 11 cannot be: 11 empty_text"),
        ({"query": {"law": QUERY | {"used": 99}}}, "note", "99 of 110 texts of query group law are used"),
        ({"targets": {"law": TARGET | {"held_out_rank_correlation": 0.19}}}, "warning", "influence on query group law is predicted poorly (held-out rank correlation 0.19)"),
        ({"targets": {"law": TARGET | {"held_out_rank_correlation": -0.1}}}, "warning", "is predicted poorly"),
        ({"targets": {"law": TARGET | {"held_out_rank_correlation": None}}}, "warning", "is the same for every landmark"),
        ({"targets": {"law": TARGET | {"halves": 0.31}}}, "warning", "the halves of query group law rank the landmarks differently"),
        ({"halves": {"law": 0.31, "code": 0.93}}, "warning", "the halves of query group law rank the pilot differently (rank correlation 0.31)"),
        ({"contaminated": {"rows": 1, "rows_by_set": {"gsm8k": 1}}}, "note", "documents rejected for a text that no selection may hold: 1 (1 of gsm8k)"),
        ({"passed_over": {"documents": 2, "tokens": 5000, "longer_than": 1024}}, "note", "documents passed over for their length: 2 of more than 1,024 tokens, 5,000 in all"),
        ({"near_duplicates": {"documents": 1, "tokens": 9}}, "note", "near-duplicates of documents that rank higher, left out: 1"),
        ({"columns": PLAIN["columns"] | {"renamed": {"beam_quad": "beam_quad_1"}}}, "note", "column 'beam_quad' of the input is carried as 'beam_quad_1'"),
        ({"columns": PLAIN["columns"] | {"files_without_usable_rows": list("abcdefg")}}, "note", "2 more files have no row that can be used"),
        ({"config": {"num_landmarks": 50}, "landmarks": {"scored": 40, "unscorable": 2}}, "note", "all 42 usable examples are landmarks: the corpus has no 50"),
        ({"centers": {"empty_dropped": 3, "requested": 12}}, "note", "clusters that no example is nearest to, which were dropped: 3"),
        ({"influence": {"intra_cluster_correlation": 0.25}}, "note", "clustering helps here: clusters explain 25% of the variance of the pilot's influence: choosing among them can give about 50%"),
        ({"influence": {"intra_cluster_correlation": 0.09}}, "note", "clustering helps little here: clusters explain 9% of the variance of the pilot's influence: choosing among them can give about 30%"),
        ({"unreachable": {"blocks": 5, "tokens": 800}}, "note", "5 blocks (800 tokens) had no text set aside"),
    ],
)  # fmt: skip
def test_each_fact_that_a_person_must_know_is_told(change, level, claim):
    notices = judgements.judge(PLAIN | change)
    assert [notice.level for notice in notices if claim in notice.message] == [level]


@pytest.mark.parametrize(
    "change",
    [
        {"targets": {"law": TARGET | {"held_out_rank_correlation": 0.2, "halves": None}}},
        # Nothing was predicted: the prediction does not matter.
        {"targets": {"law": TARGET | {"held_out_rank_correlation": 0.1, "predicted": 0}}},
        {"halves": {"law": 0.5, "code": math.nan, "prose": None}},
        {"query": {"query": {"used": 9, "unused": {}}}},
        {"excluded": {"ids": 7, "rows": 1}},
        {"influence": {"selected_mean": 0.1, "intra_cluster_correlation": None}},
        {"config": {"num_landmarks": 50}, "landmarks": {"scored": 48, "unscorable": 2}},
    ],
)
def test_what_is_as_it_should_be_is_not_told(change):
    assert judgements.judge(PLAIN | change) == ()


def test_warnings_come_before_notes():
    change = {"query": {"a": QUERY, "b": QUERY | {"used": 99}, "c": QUERY}, "refresh": REFRESH}
    levels = [notice.level for notice in judgements.judge(PLAIN | change)]
    assert levels == ["warning"] * 2 + ["note"] * 3


def test_a_manifest_is_told_in_lines_and_one_that_was_not_judged_in_none():
    judged = {"verdict": "9 were selected.", "notices": [{"level": "note", "message": "few"}]}
    assert list(judgements.about(PLAIN | judged)) == ["9 were selected.", "note: few"]
    assert list(judgements.about(PLAIN)) == []


def test_the_gain_of_choosing_clusters_is_the_root_of_their_share_of_the_variance():
    rng = np.random.default_rng(0)
    means = rng.normal(scale=0.3, size=1000)
    influence = means[:, None] + rng.normal(scale=math.sqrt(1 - 0.09), size=(1000, 100))
    best_clusters = influence[means >= np.quantile(means, 0.9)].mean()
    best_documents = influence[influence >= np.quantile(influence, 0.9)].mean()
    assert best_clusters / best_documents == pytest.approx(math.sqrt(0.09), abs=0.03)


@pytest.mark.parametrize(("halves", "whole"), [(1, 1), (0.5, 2 / 3), (0, 0), (-0.2, 0), (-1, 0)])
def test_the_whole_query_set_is_more_reliable_than_its_halves(halves, whole):
    assert judgements.reliability(halves) == pytest.approx(whole)


def test_the_reliability_is_the_agreement_of_two_whole_sets():
    rng = np.random.default_rng(0)
    quarters = rng.normal(size=100_000) + rng.normal(size=(4, 100_000))
    halves = np.corrcoef(quarters)[0, 1]
    whole = np.corrcoef(quarters[:2].sum(axis=0), quarters[2:].sum(axis=0))[0, 1]
    assert judgements.reliability(halves) == pytest.approx(whole, abs=0.01)


@pytest.mark.parametrize(
    ("selected", "claim"),
    [
        (10_000, "the budget is met"),
        (9_950, "the budget is met"),
        (9_500, "only 95.0 % of the budget"),
    ],
)
def test_the_budget_counts_as_met_to_within_one_example(selected, claim):
    found = manifest(1000, 100, (100_000, selected, 10_000))
    assert claim in judgements.verdict(shown.ReportData("Quad", found))


def test_the_verdict_says_whether_random_was_beaten(data):
    assert "is higher than that of a random draw" in judgements.verdict(data)
    same = dataclasses.replace(data.scores, scored=data.scores.pilot, selected=data.scores.pilot)
    even = tuple(dataclasses.replace(c, selected_tokens=c.tokens // 10) for c in data.clusters)
    words = judgements.verdict(dataclasses.replace(data, scores=same, clusters=even))
    assert "cannot be told apart from that of a random draw" in words


def test_without_a_pilot_the_verdict_compares_with_all_that_was_scored(data):
    one = shown.ScoredSample(np.array([0.5]), np.ones(1, np.int64), np.zeros(1, np.int64))
    all_ = shown.ScoredSample(np.array([0.5, 0.2]), np.array([1, 2]), np.zeros(2, np.int64))
    scores = shown.Scores(all_, one, None, is_census=True)
    words = judgements.verdict(dataclasses.replace(data, scores=scores))
    assert words.endswith("Their mean influence is 0.500, that of all that was scored 0.300.")
