"""What a share says, and what no selection can meet."""

import numpy as np
import pytest

from beam_quad.errors import UsageError
from beam_quad.selection.shares import (
    Condition,
    bounds_of_table,
    conditions_of,
    members_of,
    parse_bounds,
    patterns_of,
)


@pytest.mark.parametrize(
    ("text", "condition", "relation", "share"),
    [
        ("language=de >= 0.1", Condition("language", "in", ("de",)), ">=", 0.1),
        ("license in (nc, unknown) = 0", Condition("license", "in", ("nc", "unknown")), "=", 0),
        ("meta.source = wiki<=.2", Condition("meta.source", "in", ("wiki",)), "<=", 0.2),
        ("quality_score > 3 >= 0.5", Condition("quality_score", ">", number=3), ">=", 0.5),
        ("n >= -1e3 <= 1", Condition("n", ">=", number=-1000), "<=", 1),
        ("""a in ("x, y", 'z >= 1') == 0.5""", Condition("a", "in", ("x, y", "z >= 1")), "=", 0.5),
    ],
)
def test_a_share_is_a_condition_a_relation_and_a_part(text, condition, relation, share):
    (bound,) = parse_bounds([text])
    assert (bound.condition, bound.relation, bound.share) == (condition, relation, share)


@pytest.mark.parametrize(
    "text",
    ["language=de", "language=de > 0.1", "de >= 0.1", "n > x >= 0.1", "= 0.1", "a in () = 0", ""],
)
def test_what_is_no_share_is_refused_with_how_to_write_one(text):
    with pytest.raises(UsageError, match=r"cannot be read: write COLUMN=VALUE"):
        parse_bounds([text])


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        (["a=b >= 1.1"], "between 0 and 1, got 1.1"),
        (["a=b >= 0.6", "c=d >= 0.9", "a=e >= 0.5"], r"a=b >= 0.6; a=e >= 0.5: no selection"),
        (["a=b >= 0.6", "a=b <= 0.5"], "a=b >= 0.6; a=b <= 0.5: no selection"),
        (["q > 3 >= 0.5", "q > 2 <= 0.4"], "q > 3 >= 0.5; q > 2 <= 0.4: no selection"),
        (["a in (b, c) <= 0.1", "a=c >= 0.2"], "no selection meets these"),
    ],
)
def test_bounds_that_no_corpus_meets_are_refused_by_name(texts, named):
    with pytest.raises(UsageError, match=named):
        parse_bounds(texts)


def test_bounds_that_some_corpus_meets_are_not_refused():
    parse_bounds(["a=b >= 0.6", "a=c >= 0.4", "a in (b, c) <= 1", "q > 3 >= 1", "q > 4 <= 0"])


def test_a_value_meets_what_it_is_and_a_missing_one_nothing():
    values = ["3", 3, 3.0, True, None, b"3", float("nan"), [3], "de"]
    met = {
        text: np.flatnonzero(parse_bounds([f"{text} = 0"])[0].condition.met_by(values)).tolist()
        for text in ("a = 3", "a >= 3", "a < 4", "a in (de, true)")
    }
    assert met == {
        "a = 3": [0, 1, 2, 5],
        "a >= 3": [1, 2],
        "a < 4": [1, 2],
        "a in (de, true)": [3, 8],
    }


def test_patterns_say_which_conditions_a_row_meets_however_many_there_are():
    values = [f"v{i}" for i in range(20)]
    bounds = parse_bounds([f"a={value} = 0.05" for value in values])
    conditions = conditions_of(bounds)
    patterns = patterns_of(conditions, {"a": [*values, None, [values[0]], *values, 0]})
    expected = np.hstack([np.eye(20, 22), np.eye(20, 21)])
    np.testing.assert_array_equal(members_of(bounds, conditions, patterns), expected)


def test_a_table_of_shares_is_a_bound_for_each_value():
    bounds = parse_bounds(bounds_of_table("a", {"x, y": 0.25, 'say "z"': 0.5}, "FILE"))
    assert [(b.condition.values, b.relation, b.share) for b in bounds] == [
        (("x, y",), "=", 0.25),
        (('say "z"',), "=", 0.5),
    ]
    urls = bounds_of_table("url", {f"https://{i}": 1e-4 for i in range(2001)}, "FILE")
    with pytest.raises(
        UsageError, match=r"column 'url' has 2,001 bounds, and 2,000 are the most; .* coarser"
    ):
        parse_bounds(urls)
    with pytest.raises(UsageError, match="FILE: the share of 'x' must be a number, got 'much'"):
        bounds_of_table("a", {"x": "much"}, "FILE")
