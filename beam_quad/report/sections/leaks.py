"""Documents that hold a text which no selection may, for a person to judge in a minute."""

import re
from collections.abc import Mapping
from typing import Any

from beam_quad.report.data import Leak, Paraphrase, ReportData
from beam_quad.report.formatting import count, percent
from beam_quad.report.markup import Html, Section, clean, join, tag

_WORD = re.compile(r"\w+")


def leaks(data: ReportData) -> Section | None:
    """Shows what documents and texts have in common, side by side; None where there is no leak."""
    if not data.leaks:
        return None
    lead = (
        "Each document holds most of a text that no selection may: it was rejected. The passage that both have is marked; "
        "read a few, and raise --decontaminate_threshold if they are harmless."
    )
    return Section("leaks", "Leaks", join(_leak(leak) for leak in data.leaks), lead)


def paraphrases(data: ReportData) -> Section | None:
    """Shows selected documents beside the texts that they may be paraphrases of; None where there is none."""
    if not data.paraphrases:
        return None
    lead = (
        "Each document is selected, and says perhaps what a text says that no selection may hold: its embedding is closer than "
        "nearly all, and it has most of the words, which are marked. Put the ids of what should go on a list for --exclude."
    )
    return Section(
        "paraphrases", "Paraphrases", join(_paraphrase(own) for own in data.paraphrases), lead
    )


def about_paraphrases(manifest: Mapping[str, Any]) -> str | None:
    """Says in a line how many selected documents are flagged as paraphrases, from a manifest; None where none is."""
    found = manifest.get("paraphrases")
    if found is None or not found["rows"]:
        return None
    sets = ", ".join(f"{count(number)} of {name}" for name, number in found["rows_by_set"].items())
    number = found["rows"]
    words = "1 selected document" if number == 1 else f"{count(number)} selected documents"
    return f"{words} may be a paraphrase of a text that no selection may hold ({sets})."


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


def _paraphrase(own: Paraphrase) -> Html:
    facts = (
        tag("strong", f"{own.cosine:.2f}"),
        tag("code", own.document),
        tag("span", f"has {percent(own.share)} of the words of {own.item} ({own.set.split()[0]})"),
    )
    texts = (
        tag("p", _shared(text, other), dir="auto")
        for text, other in ((own.text, own.item_text), (own.item_text, own.text))
    )
    return tag("article", tag("header", *facts), *texts)


def _shared(text: str, other: str) -> Html:
    """A text, with the words marked that another one has."""
    words = set(_WORD.findall(clean(other).casefold()))
    # Every second part is a word.
    parts = re.split(r"(\w+)", clean(text))
    return join(tag("mark", part) if part.casefold() in words else part for part in parts)


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
