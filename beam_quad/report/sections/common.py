"""What several sections share."""

import dataclasses
from collections.abc import Sequence

from matplotlib.figure import Figure

from beam_quad.report.markup import Html, join, tag
from beam_quad.report.svg import to_svg


@dataclasses.dataclass(frozen=True)
class ImageKey:
    """One entry of a plot's key: a colour of the style sheet and what it stands for."""

    kind: str
    label: str


def figure(
    drawing: Figure, name: str, title: str, keys: Sequence[ImageKey] = (), note: str | None = None
) -> Html:
    """Makes a figure with its heading above and its key below; the key is text of the page, so that it wraps."""
    entries = [tag("span", tag("i", class_=k.kind), k.label, class_="key") for k in keys]
    caption = join([*entries, note], " ")
    return tag(
        "figure",
        tag("h3", title),
        to_svg(drawing, name, title),
        tag("figcaption", caption) if caption else None,
    )
