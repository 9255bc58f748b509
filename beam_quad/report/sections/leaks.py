"""Documents that hold a text which no selection may hold, for a person to judge in a minute."""

import re
from collections.abc import Mapping
from typing import Any

from beam_quad.report.data import ReportData
from beam_quad.report.formatting import clean
from beam_quad.report.pages import Section

_WORD = re.compile(r"\w+")


def leaks(data: ReportData) -> Section | None:
    """Shows what documents and texts have in common, side by side; None if there is no leak."""
    if not data.leaks:
        return None
    lead = (
        "Each document holds most of a text that no selection may hold, so it was rejected. The passage that both have is marked. "
        "Read a few, and raise --decontaminate_threshold if they are harmless."
    )
    items = [(leak, *_passage(leak)) for leak in data.leaks]
    return Section("leaks", "Leaks", {"items": items}, lead)


def paraphrases(data: ReportData) -> Section | None:
    """Shows selected documents beside the texts that they may be paraphrases of; None if there is none."""
    if not data.paraphrases:
        return None
    lead = (
        "Each document is selected, and may paraphrase a text that no selection may hold: its embedding is closer than nearly all others, "
        "and it has most of the words, which are marked. To leave documents out, put their ids on a list for --exclude."
    )
    texts = [(own, own["text"], own["item_text"]) for own in data.paraphrases]
    items = [(own, _shared(text, item), _shared(item, text)) for own, text, item in texts]
    return Section("paraphrases", "Paraphrases", {"items": items}, lead)


def _shared(text: str, other: str) -> list[tuple[str, bool]]:
    """The parts of a text, and whether each is a word that another text has."""
    words = set(_WORD.findall(clean(other).casefold()))
    # Every second part is a word.
    return [(part, part.casefold() in words) for part in re.split(r"(\w+)", clean(text))]


def _passage(leak: Mapping[str, Any]) -> tuple[str, str, str]:
    """What of the text is before the passage, the passage, and after it; if it is beyond what is shown, it alone."""
    text = clean(leak["item_text"])
    # Words are told apart as `selection.leaks` does, but for what normalisation changes: then nothing is marked.
    words = [re.escape(word) for word in leak["matched"].split()]
    for number in range(len(words), 2, -1):
        if found := re.search(r"[\W_]+".join(words[:number]), text, re.IGNORECASE):
            start, end = found.span()
            return text[:start], text[start:end], text[end:]
    return "… ", leak["matched"], " …"
