"""A matplotlib figure as inline SVG that takes its colours and its font from the page.

A plot is drawn in placeholder colours, which are then replaced by the page's CSS variables, so that one drawing is
right on a light and on a dark ground.
"""

import contextlib
import io
import re
from typing import Final

import matplotlib.style
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from beam_quad.report.markup import Html, escape

# Colours that no plot would use by chance, and the variables of `style.py` that they stand for.
INK: Final = "#010101"
MUTED: Final = "#020202"
LINE: Final = "#030303"
SELECTED: Final = "#040404"
SCORED: Final = "#050505"
RANDOM: Final = "#060606"
SHARE_RAMP: Final = ("#070707", "#080808", "#090909", "#0a0a0a", "#0b0b0b")
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


def settings(values: dict[str, object]) -> contextlib.AbstractContextManager[None]:
    """Sets matplotlib's options for a `with` block, on its defaults and not on the user's own configuration."""
    context: contextlib.AbstractContextManager[None] = matplotlib.style.context(["default", values])
    return context


def to_svg(figure: Figure, name: str, description: str) -> Html:
    """Draws a figure as an inline SVG element.

    Args:
      figure: A figure drawn in this module's colours. It must hold no text from the corpus: matplotlib would take
        dollar signs in it for mathematics.
      name: Distinguishes the ids of this drawing from those of others on the page.
      description: What it shows, for those who cannot see it.

    Returns:
      The element; the same bytes for the same figure.
    """
    FigureCanvasSVG(figure)
    buffer = io.StringIO()
    with settings({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=_NO_METADATA, transparent=True)
    return Html(_adapt(buffer.getvalue(), name, description))


def _adapt(text: str, name: str, description: str) -> str:
    text = text[text.index("<svg") :]
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    # The drawing's own style sheet would hold for the whole page.
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = _FONT_FAMILY.sub("", text)
    text = _PATH_DATA.sub(lambda m: _LONG_DECIMAL.sub(r"\1", m[0]).replace("\n", ""), text)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, variable)
    text = re.sub(r"\n\s*", "\n", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(description)}" ', 1)
