"""HTML that is escaped by its type: a plain string is text and gets escaped, only `Html` goes in as it is."""

import dataclasses
import html
import re
import unicodedata
from collections.abc import Iterable, Sequence

TEXT_LIMIT = 400
_VOID_TAGS = frozenset({"meta", "br", "hr"})
# Control and format characters, surrogates, private use, unassigned; but Indic scripts and emoji need the joiners.
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
_JOINERS = "\u200c\u200d"
_SPACE = re.compile(r"\s+")


class Html(str):
    """Markup that is known to be safe. Made by `tag`, never from somebody's text."""

    __slots__ = ()


def clean(text: str, limit: int = TEXT_LIMIT) -> str:
    """Makes any text fit for one paragraph.

    White space is folded; control characters, lone surrogates and the marks that reverse the reading direction
    (which could reach beyond their paragraph) are dropped; what is longer than `limit` characters is cut.
    """
    # The cut comes first, so that a document of many megabytes costs no more than a page of it.
    head = _SPACE.sub(" ", text[: 4 * limit])
    kept = "".join(c for c in head if c in _JOINERS or unicodedata.category(c) not in _INVISIBLE)
    is_cut = len(kept) > limit or len(text) > 4 * limit
    return kept[:limit].rstrip() + "…" if is_cut else kept


def escape(value: object) -> Html:
    """Escapes a value's text, unless it is markup already; a string is cleaned and cut."""
    return value if isinstance(value, Html) else Html(html.escape(clean(str(value)), quote=True))


def tag(name: str, /, *children: object, **attributes: str | None) -> Html:
    """Makes an element.

    Args:
      name: The tag's name.
      *children: What goes inside; everything but `Html` is escaped. None is left out.
      **attributes: Values are escaped; `class_` stands for `class`, other underscores for hyphens; None is left
        out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value, quote=True)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID_TAGS:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[object], separator: str = "") -> Html:
    """Joins children, escaping what is not markup and leaving out None."""
    return Html(html.escape(separator).join(escape(c) for c in children if c is not None))


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
      title: Its head.
      kind: A CSS class: "number" is aligned to the right, "wide" and "text" to the left.
      hint: What the figure means, shown when the head is pointed at.
    """

    title: str
    kind: str = "number"
    hint: str | None = None


def table(columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> Html:
    """Makes a table that scrolls inside its own box where the screen is narrow."""
    head = tag(
        "tr", *(tag("th", c.title, class_=c.kind, title=c.hint, scope="col") for c in columns)
    )
    body = (
        tag("tr", *(tag("td", cell, class_=c.kind) for c, cell in zip(columns, row, strict=True)))
        for row in rows
    )
    return tag(
        "div", tag("table", tag("thead", head), tag("tbody", *body)), class_="scroll", tabindex="0"
    )


def bar(share: float | None, kind: str = "selected") -> Html:
    """Makes a bar that is filled to `share` (0 to 1, clamped) of its box, in the colour named `kind`."""
    width = 100 * min(max(share or 0.0, 0.0), 1.0)
    return tag("span", tag("span", style=f"width:{width:.2f}%", class_=kind), class_="bar")


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
      anchor: Its id.
      title: Its heading, also in the table of contents.
      body: What it shows.
      lead: One or two sentences under the heading that say how to read it.
    """

    anchor: str
    title: str
    body: Html
    lead: str | None = None

    def to_html(self) -> Html:
        """Makes the section's element."""
        lead = tag("p", self.lead, class_="lead") if self.lead else None
        return tag("section", tag("h2", self.title), lead, self.body, id=self.anchor)
