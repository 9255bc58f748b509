"""Templates to pages: nothing is fetched or run, and every text is escaped, cleaned and cut.

The templates are in `templates/`. What they print is text unless it is `Markup`, which templates and drawings alone make.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jinja2
from markupsafe import Markup, escape

from beam_quad.report import formatting
from beam_quad.report.formatting import clean


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
      name: Its anchor.
      title: Its heading, also in the table of contents.
      view: What its template shows, by name.
      lead: One or two sentences under the heading that say how to read it.
      template: Its template in `templates/sections`; by default the one of its name.
    """

    name: str
    title: str
    view: Mapping[str, Any]
    lead: str | None = None
    template: str = ""


def render(template: str, **names: Any) -> str:
    """Makes a page of a template.

    Args:
      template: Its name in `templates/`.
      **names: What it shows.

    Returns:
      An HTML document, the same for the same names.
    """
    return _environment().get_template(template).render(names)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("beam_quad.report"),
        autoescape=True,
        finalize=_printed,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("compact", "correlation", "count", "decimal", "duration", "percent", "signed"):
        environment.filters[name] = getattr(formatting, name)
    environment.filters |= {"cut": clean, "whole": _whole, "sentence": _sentence}
    environment.globals["ratio"] = formatting.ratio
    return environment


def _printed(value: object) -> object:
    """What a template prints of a value: nothing of None, and of a string what fits into a paragraph."""
    if value is None:
        return ""
    return value if isinstance(value, Markup) else clean(str(value))


def _whole(text: str) -> Markup:
    """Escapes a text of our own, which is not cut."""
    return escape(clean(text, len(text)))


def _sentence(words: str) -> Markup:
    """Makes a sentence of a line, which has neither a capital nor a full stop."""
    return _whole(f"{words[:1].upper()}{words[1:]}.")
