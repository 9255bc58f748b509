"""What a refresh changed in the selection that it went on from."""

from collections.abc import Iterator, Mapping
from typing import Any

from beam_quad.report.data import Amount, ReportData
from beam_quad.report.formatting import count, percent, ratio
from beam_quad.report.markup import Column, Section, join, table, tag

_REASONS = {
    "shard_gone": "its shard is gone",
    "shard_changed": "its shard changed",
    "not_among_the_best": "no longer among the best",
    "duplicate_id": "its id stands at an earlier row now",
    "excluded": "excluded",
}


def refresh(data: ReportData) -> Section | None:
    """Shows what stayed, what came and what left; None of a run that goes on from none."""
    found = data.refresh
    if found is None:
        return None
    total = found.kept.tokens + found.added.tokens
    rows = [
        (name, count(amount.documents), count(amount.tokens), percent(ratio(amount.tokens, total)))
        for name, amount in (("Kept", found.kept), ("Added", found.added))
    ]
    rows += [
        (f"Left: {_REASONS.get(reason, reason)}", count(own.documents), count(own.tokens), "")
        for reason, own in sorted(found.left.items())
    ]
    columns = [
        Column("", "text"),
        Column("Examples"),
        Column("Tokens"),
        Column("Selection", hint="share of the selected tokens"),
    ]
    runs = "one run" if found.num_bases == 1 else f"{count(found.num_bases)} runs"
    lead = f"This selection goes on from {runs}; {_splits(found.splits)}"
    words = [tag("li", _sentence(line)) for line in found.words]
    body = join([table(columns, rows), tag("ul", *words) if words else None])
    return Section("refresh", "Since the last run", body, lead)


def about_refresh(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Says in a line what changed, from a manifest; nothing of a run that goes on from none."""
    found = manifest.get("refresh")
    if found is None:
        return
    kept, added = (Amount(**found[name]) for name in ("kept", "added"))
    left = [
        f"{count(own['documents'])} left ({_REASONS.get(reason, reason)})"
        for reason, own in found["left"].items()
    ]
    words = [
        f"{count(kept.documents)} kept",
        f"{count(added.documents)} added",
        *(left or ["none left"]),
    ]
    yield f"since the last run: {', '.join(words)}; {_splits(found['splits'])}"
    yield from found.get("words", ())


def harmful_added(manifest: Mapping[str, Any]) -> str | None:
    """Says how many documents of negative influence a refresh added for want of better ones, from a manifest; or None."""
    number = manifest.get("refresh", {}).get("added_harmful", 0)
    if not number:
        return None
    return (
        f"{count(number)} of the documents that were added have an influence below 0: the new files and what was scored "
        "before hold no better ones; pass --reselect to choose among all documents."
    )


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _splits(splits: Mapping[str, int]) -> str:
    """Says what became of the input."""
    words = [f"of {count(splits['new'] + splits['kept'])} splits {count(splits['new'])} new"]
    words += [
        f"{count(splits[name])} of the last run's {name}"
        for name in ("changed", "gone")
        if splits[name]
    ]
    return f"{', '.join(words)}."
