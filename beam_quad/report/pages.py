"""Renders templates to pages without scripts or external resources; every text is escaped, cleaned and cut.

The templates are in `templates/`. Values are printed as text unless they are `Markup`, which only templates and drawings
make.
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
      name: Anchor of the section.
      title: Heading, also in the table of contents.
      view: Values for the template, by name.
      lead: One or two sentences under the heading on how to read the section.
      template: Template in `templates/sections`; by default named like the section.
    """

    name: str
    title: str
    view: Mapping[str, Any]
    lead: str | None = None
    template: str = ""


def render(template: str, **names: Any) -> str:
    """Renders a template to a page.

    Args:
      template: Name of the template in `templates/`.
      **names: Values for the template.

    Returns:
      An HTML document; equal values give equal output.
    """
    return _environment().get_template(template).render(names)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("beam_quad.report"),
        # Texts of the corpus are hostile until proven otherwise; no template may forget to escape one.
        autoescape=True,
        finalize=_printed,
        # A name that is misspelt in a template would otherwise print nothing.
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in (
        "compact",
        "correlation",
        "count",
        "decimal",
        "duration",
        "percent",
        "signed",
        "size",
    ):
        environment.filters[name] = getattr(formatting, name)
    environment.filters |= {"cut": clean, "whole": _whole, "sentence": _sentence, "option": _option}
    environment.globals["ratio"] = formatting.ratio
    return environment


def _printed(value: object) -> object:
    """Converts a value for printing: None to nothing, and a string to text that fits a paragraph."""
    if value is None:
        return ""
    return value if isinstance(value, Markup) else clean(str(value))


def _whole(text: str) -> Markup:
    """Escapes one of our own texts without cutting it."""
    return escape(clean(text, len(text)))


def _option(value: object) -> str:
    """Formats the value of an option; an option that is not given is left empty."""
    match value:
        case None | () | []:
            return ""
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return ", ".join(map(_option, value))
        case dict():
            return "; ".join(f"{name}: {_option(own)}" for name, own in value.items())
    return str(value)


def _sentence(words: str) -> Markup:
    """Makes a sentence of a line by adding a capital and a full stop."""
    return _whole(f"{words[:1].upper()}{words[1:]}.")
