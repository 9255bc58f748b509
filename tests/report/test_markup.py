import hypothesis.strategies as st
from hypothesis import given

from beam_quad.report.markup import TEXT_LIMIT, Html, clean, escape, tag


@given(st.text())
def test_no_text_survives_as_markup(text):
    inside = tag("p", text).removeprefix("<p>").removesuffix("</p>")
    assert not set(inside) & set("<>\"'")


def test_markup_is_not_escaped_twice():
    assert tag("p", tag("b", "a & b"), None, " <") == "<p><b>a &amp; b</b> &lt;</p>"
    assert isinstance(escape(Html("<br>")), Html)


def test_attributes_are_escaped():
    assert (
        tag("a", "x", title='"><script>', data_id=None)
        == '<a title="&quot;&gt;&lt;script&gt;">x</a>'
    )


def test_long_texts_are_cut_and_say_so():
    assert clean("word " * 1000).endswith("…")
    assert len(clean("x" * 10_000_000)) == TEXT_LIMIT + 1
    assert clean("x" * TEXT_LIMIT) == "x" * TEXT_LIMIT


def test_characters_that_could_break_the_page_are_dropped():
    assert clean("a\x00b\u202ec\ud800d\ne") == "abcd e"
    assert clean("👩\u200d🔬") == "👩\u200d🔬"
