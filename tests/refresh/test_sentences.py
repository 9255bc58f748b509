import re

import pytest

from beam_quad.intervals import Interval
from beam_quad.refresh.drift import Drift, Finding
from beam_quad.refresh.scorecard import ClusterChange, Scorecard, Worth
from beam_quad.refresh.sentences import drift_sentences, scorecard_sentences

NOTHING = Worth(None, None, None)


def drift(*findings):
    return Drift(1_000, 2, {finding.name: finding for finding in findings})


def alarm(name, old, new, **more):
    return Finding(name, old, new, p_value=0.001, is_alarm=True, **more)


@pytest.mark.parametrize(
    ("finding", "words"),
    [
        (alarm("far", 0.01, 0.0312), "3.1 % of the new documents are farther from the middle of the nearest cluster than 99 % of its old ones"),
        (alarm("influence", 0.0, -0.3), "new documents have 0.30 standard deviations less influence"),
        (alarm("influence", 0.0, 0.3), "0.30 standard deviations more influence"),
        (alarm("influence_by_cluster", 0.0, 0.25), "each its own way, by 0.25 standard deviations"),
        (alarm("lengths", 688.2, 1812.0), "new ones have 1,812 tokens on average, old ones 688"),
        (alarm("rejected", 0.02, 0.041), "4.1 % of the new rows are rejected, 2.0 % of the old ones"),
    ],
)  # fmt: skip
def test_an_alarm_says_what_differs_and_by_how_much(finding, words):
    (sentence,) = drift_sentences(drift(finding), grows_clusters=False)
    assert words in sentence
    assert "\n" not in sentence
    assert "too few files" not in sentence


def test_the_reason_that_changed_most_is_named():
    reasons = {"empty": (0.01, 0.012), "too short": (0.01, 0.029)}
    found = Drift(9, 2, {"rejected": alarm("rejected", 0.02, 0.041)}, reasons)
    (sentence,) = drift_sentences(found, grows_clusters=False)
    assert sentence.endswith("most of the change for 'too short' (2.9 %, 1.0 % of the old)")


def test_new_clusters_are_advised_where_they_are_not_opened():
    far = drift(alarm("far", 0.01, 0.05))
    assert "pass --grow_clusters" in drift_sentences(far, grows_clusters=False)[0]
    assert "--grow_clusters" not in drift_sentences(far, grows_clusters=True)[0]


def test_it_is_said_what_does_not_differ_what_cannot_be_told_and_what_rests_on_few_shards():
    quiet = Finding("rejected", 0.02, 0.021, p_value=0.4)
    few = Finding("influence", 0.0, None)
    far = alarm("far", 0.01, 0.05, is_by_shards=False)
    said = drift_sentences(drift(quiet, few), grows_clusters=False)
    assert re.match("no drift: rejected rows differ by no more than chance", said[0])
    assert said[1] == (
        "too few documents to tell whether there is a drift in the influence of documents within clusters"
    )
    said = drift_sentences(drift(far, quiet), grows_clusters=False)
    assert len(said) == 1
    assert "too few files to know" in said[0]
    (said,) = drift_sentences(drift(few), grows_clusters=False)
    assert said.startswith("too few documents")


def change(growth, moved):
    return ClusterChange(0, 9, 9, 0.1, 0.1, growth, moved, NOTHING, NOTHING)


def test_the_scorecard_says_what_tokens_are_worth_and_how_many_clusters_changed():
    selected = Worth(Interval(0.2, 0.1, 0.3), Interval(0.24, 0.2, 0.3), Interval(1.2, 1.05, 1.41))
    influence = Worth(Interval(-0.01, -0.02, 0.01), Interval(0.02, 0.01, 0.03), None)
    clusters = (change(1, 0.5), change(1, None), change(-1, 0.1), change(0, None))
    said = scorecard_sentences(Scorecard(9, 9, 9, 9, influence, 1.0, selected, clusters))
    assert said == [
        "the mean influence of a token is 0.02 in new files and -0.01 in old ones",
        "the share of selected tokens is 24.0 % in new files and 20.0 % in old ones: 1.20 times (1.05 to 1.41) "
        "as much",
        "of 4 clusters 2 grew, 1 shrank and 1 moved",
    ]
    assert scorecard_sentences(Scorecard(0, 0, 0, 0, NOTHING, 0.0, NOTHING, ())) == []
