"""Documents that hold a text which no selection may, for a person to judge in a minute."""

import re
from collections.abc import Mapping
from typing import Any

from beam_quad.report.data import Leak, ReportData
from beam_quad.report.formatting import count, percent
from beam_quad.report.markup import Html, Section, clean, join, tag


def leaks(data: ReportData) -> Section | None:
    """Shows what documents and texts have in common, side by side; None where there is no leak."""
    if not data.leaks:
        return None
    lead = (
        "Each document holds most of a text that no selection may: it was rejected. The passage that both have is marked; "
        "read a few, and raise --decontaminate_threshold if they are harmless."
    )
    return Section("leaks", "Leaks", join(_leak(leak) for leak in data.leaks), lead)


def about_leaks(manifest: Mapping[str, Any]) -> str | None:
    """Says in a line how many documents were rejected for what they hold, from a manifest; None where none was."""
    found = manifest.get("contaminated")
    if found is None or not found["rows"]:
        return None
    sets = ", ".join(f"{count(number)} of {name}" for name, number in found["rows_by_set"].items())
    number = found["rows"]
    words = "1 document holds a text" if number == 1 else f"{count(number)} documents hold a text"
    return f"{words} that no selection may ({sets}), and {'is' if number == 1 else 'are'} rejected."


def _leak(leak: Leak) -> Html:
    facts = (
        tag("strong", percent(leak.share)),
        tag("span", f"of {leak.item} ({leak.set.split()[0]}) is in"),
        tag("code", leak.document),
    )
    return tag("article", tag("header", *facts), tag("p", _marked(leak), dir="auto"))


def _marked(leak: Leak) -> Html:
    """The text, with the passage marked; if that is beyond what is shown of the text, the passage alone."""
    text = clean(leak.item_text)
    # Words are told apart as `selection.leaks` does, but for what normalisation changes: then nothing is marked.
    words = [re.escape(word) for word in leak.matched.split()]
    for number in range(len(words), 2, -1):
        if found := re.search(r"[\W_]+".join(words[:number]), text, re.IGNORECASE):
            start, end = found.span()
            return join([text[:start], tag("mark", text[start:end]), text[end:]])
    return join(["… ", tag("mark", leak.matched), " …"])
