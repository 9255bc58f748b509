import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_quad.artifacts.patterns import Search, expand_braces, folded, split_list
from beam_quad.errors import UsageError


def there(*names):
    return lambda name: name in names


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        ("a,b", (), ["a", "b"]),
        (" a , ,b ", (), ["a", "b"]),
        ("x/{1,2}/*,y", (), ["x/{1,2}/*", "y"]),
        ("x/a[,]b,y", (), ["x/a[,]b", "y"]),
        ("x/{1,y", (), ["x/{1", "y"]),
        ("x/[1,y/]", (), ["x/[1", "y/]"]),
        ("x,a,b.jsonl,y", ("a,b.jsonl", "a", "b.jsonl"), ["x", "a,b.jsonl", "y"]),
        (" a", (" a",), [" a"]),
    ],
)
def test_a_list_splits_at_commas_but_in_braces_brackets_and_names(text, names, expected):
    assert split_list(text, there(*names)) == expected


def test_a_list_of_urls_asks_for_no_name_with_a_comma():
    def refuse(name):
        raise AssertionError(name)

    assert split_list("gs://b/x,gs://b/y", refuse) == ["gs://b/x", "gs://b/y"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("x{1,2}y{a,b}", ["x1ya", "x1yb", "x2ya", "x2yb"]),
        ("{a,b{1,2}}", ["a", "b1", "b2"]),
        ("{08..10}", ["08", "09", "10"]),
        ("{8..10}", ["8", "9", "10"]),
        ("{2..0}", ["2", "1", "0"]),
        ("x{,.gz}", ["x", "x.gz"]),
        ("{a}", ["{a}"]),
        ("{a,b", ["{a,b"]),
        ("{a}{1,2}", ["{a}1", "{a}2"]),
    ],
)
def test_braces_stand_for_what_they_do_in_a_shell(pattern, expected):
    assert expand_braces(pattern) == expected


def test_too_many_alternatives_are_refused():
    with pytest.raises(UsageError, match="more than 10,000"):
        expand_braces("{0..99}{0..99}{0..99}")


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("/r/*.jsonl", "/r/a.jsonl", "/r/x/a.jsonl"),
        ("/r/**/*.jsonl", "/r/a.jsonl", "/r/a.json"),
        ("/r/**/*.jsonl", "/r/x/y/a.jsonl", "/r/ax"),
        ("/r/x**", "/r/x/y/a", "/r/y/a"),
        ("/r/a?b", "/r/a-b", "/r/a/b"),
        ("/r/a[!x]b", "/r/a-b", "/r/a/b"),
        ("/r/[]]", "/r/]", "/r/["),
        ("/r/[a-c^]", "/r/^", "/r/-"),
        ("/r/*[a]", "/r/xa", "/r/xb"),
        ("/r/*.parquet", "/r/a.parquet/part-0", "/r/a/part-0.parquet"),
        ("/r/*", "/r/a", "/r/a.parquet/part-0"),
        ("/r/*\nx", "/r/a\nx", "/r/a\ny"),
        ("/*.jsonl", "/a.jsonl", "/r/a.jsonl"),
    ],
)
def test_a_search_matches_paths_by_its_glob(pattern, matching, other):
    search = Search.of(pattern)
    assert search.matches(matching)
    assert not search.matches(other)


@pytest.mark.parametrize(
    ("pattern", "folder", "is_entered"),
    [
        ("/r/*/a", "/r/x", True),
        ("/r/*/a", "/r/x/a", False),
        ("/r/y*/a", "/r/x", False),
        ("/r/**/a", "/r/x/y/z", True),
        ("/r/*.parquet", "/r/a.parquet", True),
        ("/r/*.parquet", "/r/x", False),
        ("/r/*", "/r/x", False),
    ],
)
def test_a_search_enters_only_folders_that_may_hold_a_match(pattern, folder, is_entered):
    assert Search.of(pattern).enters(folder) == is_entered


@pytest.mark.parametrize(
    ("pattern", "path", "is_hidden"),
    [
        ("/r/**", "/r/x/_y/a", True),
        ("/r/**", "/r/.a", True),
        ("/r/*/*", "/r/x/_a", True),
        ("/r/*/_y/*", "/r/x/_y/a", False),
        ("/r/_*", "/r/_a", False),
        ("/r/_*", "/r/_a/_b", True),
        ("/_r/**", "/_r/a", False),
    ],
)
def test_names_are_hidden_unless_the_glob_asks_for_them(pattern, path, is_hidden):
    assert Search.of(pattern).is_hidden(path) == is_hidden


def test_numbers_that_follow_each_other_become_one_pattern():
    paths = [f"/a/part-{i:05d}-of-00012.jsonl.bz2" for i in range(12) if i != 5]
    assert folded([*paths, "/a/b{1}.jsonl", "/a/x9.parquet", "/a/x10.parquet"]) == [
        "/a/b{1}.jsonl",
        "/a/part-{00000..00004}-of-00012.jsonl.bz2",
        "/a/part-{00006..00011}-of-00012.jsonl.bz2",
        "/a/x10.parquet",
        "/a/x9.parquet",
    ]


@given(st.sets(st.from_regex(r"[ab]{0,2}[0-9]{1,3}(-0[12])?(of[0-9])?", fullmatch=True)))
def test_folded_names_stand_for_these_names_and_no_others(names):
    patterns = folded(names)
    assert sorted(name for pattern in patterns for name in expand_braces(pattern)) == sorted(names)
    assert folded(sorted(names, reverse=True)) == patterns
