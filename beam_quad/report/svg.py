"""Inline SVG of matplotlib figures, with colours and font taken from the page.

A plot is drawn in placeholder colours, which are then replaced by the page's CSS variables, so that one drawing works on
light and dark backgrounds.
"""

import contextlib
import dataclasses
import io
import re
from collections.abc import Sequence
from typing import Final

import matplotlib.style
from markupsafe import Markup, escape
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from beam_quad.report.formatting import clean

# Placeholder colours, which no plot uses by chance, for the variables of `style.css`.
INK: Final = "#010101"
MUTED: Final = "#020202"
LINE: Final = "#030303"
SELECTED: Final = "#040404"
SCORED: Final = "#050505"
RANDOM: Final = "#060606"
SHARE_RAMP: Final = ("#070707", "#080808", "#090909", "#0a0a0a", "#0b0b0b")
# CSS class and colour of each kind of part of a proxy.
KINDS: Final = {
    "attention": ("selected", SELECTED),
    "mlp": ("scored", SCORED),
    "both": ("share-2", SHARE_RAMP[2]),
    "other": ("random", RANDOM),
}
_VARIABLES: Final = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    SELECTED: "var(--selected)",
    SCORED: "var(--scored)",
    RANDOM: "var(--random)",
    **{color: f"var(--share-{i})" for i, color in enumerate(SHARE_RAMP)},
}
_LONG_DECIMAL = re.compile(r"(\d+\.\d{2})\d+")
_PATH_DATA = re.compile(r'(?<= d=")[^"]*')
_FONT_FAMILY = re.compile(r"font-family: [^;\"]*;? ?")
# Without these four, matplotlib writes the date and its own version into the file.
_NO_METADATA: Final = {"Date": None, "Creator": None, "Format": None, "Type": None}


@dataclasses.dataclass(frozen=True)
class Picture:
    """A drawing with a heading above and a key below; the key is text of the page, so it wraps.

    Attributes:
      title: The heading.
      svg: The drawing.
      keys: Pairs of a colour of the style sheet and its meaning.
      note: Further text below the drawing.
    """

    title: str
    svg: Markup
    keys: Sequence[tuple[str, str]] = ()
    note: str | None = None

    @classmethod
    def of(
        cls,
        drawing: Figure,
        name: str,
        title: str,
        keys: Sequence[tuple[str, str]] = (),
        note: str | None = None,
    ) -> "Picture":
        """Makes a picture of a figure; `name` as for `to_svg`, other arguments as the attributes."""
        return cls(title, to_svg(drawing, name, title), keys, note)


def settings(values: dict[str, object]) -> contextlib.AbstractContextManager[None]:
    """Sets matplotlib's options for a `with` block, over its defaults and not the user's configuration."""
    # A user's matplotlibrc must not change the bytes of the page.
    context: contextlib.AbstractContextManager[None] = matplotlib.style.context(["default", values])
    return context


def to_svg(figure: Figure, name: str, description: str) -> Markup:
    """Draws a figure as an inline SVG element.

    Args:
      figure: A figure in this module's colours. It must not contain text of the corpus, because matplotlib would interpret
        dollar signs as math.
      name: Makes the ids of this drawing unique on the page.
      description: Alternative text.

    Returns:
      The element; equal figures give equal bytes.
    """
    FigureCanvasSVG(figure)
    buffer = io.StringIO()
    with settings({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=_NO_METADATA, transparent=True)
    return Markup(_adapt(buffer.getvalue(), name, description))


def _adapt(text: str, name: str, description: str) -> str:
    text = text[text.index("<svg") :]
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    # The drawing's own style sheet would apply to the whole page.
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = _FONT_FAMILY.sub("", text)
    text = _PATH_DATA.sub(lambda m: _LONG_DECIMAL.sub(r"\1", m[0]).replace("\n", ""), text)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, variable)
    text = re.sub(r"\n\s*", "\n", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(clean(description))}" ', 1)
