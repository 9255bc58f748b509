import pathlib
import tomllib

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from beam_quad.report import pages
from beam_quad.report.formatting import TEXT_LIMIT, clean

ROOT = pathlib.Path(__file__).parents[2]


def shown(template: str, **names: object) -> str:
    """What a template prints in the environment of all pages."""
    return pages._environment().from_string(template).render(names)


@given(st.text())
def test_no_text_survives_as_markup(text):
    inside = shown('<p title="{{ text }}">{{ text }}</p>', text=text)
    assert not set(
        inside.replace('<p title="', "").replace('">', "", 1).removesuffix("</p>")
    ) & set("<>\"'")


def test_markup_is_not_escaped_twice_and_none_is_nothing():
    assert shown("{{ a }}{{ b }}{{ c }}", a=Markup("<b>"), b=" a & b", c=None) == "<b> a &amp; b"


def test_what_is_printed_is_cut_unless_it_is_our_own():
    text = "<" + "x" * TEXT_LIMIT
    assert shown("{{ text }}", text=text) == "&lt;" + "x" * (TEXT_LIMIT - 1) + "…"
    assert shown("{{ text|sentence }}", text=text) == "&lt;" + "x" * TEXT_LIMIT + "."


def test_a_name_that_a_template_is_not_given_is_an_error():
    with pytest.raises(jinja2.UndefinedError):
        shown("{{ forgotten }}")


def test_long_texts_are_cut_and_say_so():
    assert clean("word " * 1000).endswith("…")
    assert len(clean("x" * 10_000_000)) == TEXT_LIMIT + 1
    assert clean("x" * TEXT_LIMIT) == "x" * TEXT_LIMIT


def test_characters_that_could_break_the_page_are_dropped():
    assert clean("a\x00b\u202ec\ud800d\ne") == "abcd e"
    assert clean("👩\u200d🔬") == "👩\u200d🔬"


def test_every_template_is_installed_with_the_package():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    package = ROOT / "beam_quad" / "report"
    patterns = setuptools["package-data"]["beam_quad.report"]
    installed = {path for pattern in patterns for path in package.glob(pattern) if path.is_file()}
    assert installed == {path for path in package.rglob("templates/**/*") if path.is_file()}
