"""What the page shows of a manifest, made up."""

from typing import Any


def manifest(
    read: int,
    selected: int,
    tokens: tuple[int, int, int | None],
    rejected: dict[str, int] | None = None,
    method: str = "quad",
    **more: Any,
) -> dict[str, Any]:
    """Makes the counts, of which all that is read and neither selected nor rejected is not selected.

    Args:
      read: Rows read.
      selected: Rows selected.
      tokens: Tokens read, selected and of the budget.
      rejected: Rows rejected, by reason.
      method: The policy in words.
      more: Further entries; `scored` and `bad_files` are counts.
    """
    refused = sum((rejected or {}).values())
    counts = {
        "read": read,
        "selected": selected,
        "not_selected": read - selected - refused,
        "rejected": refused,
        "scored": more.pop("scored", 0),
        "bad_files": more.pop("bad_files", 0),
    }
    named = dict(zip(("read", "selected", "budget"), tokens, strict=True))
    found = {"method": method, "counts": counts, "tokens": named, "rejected": rejected or {}}
    return found | {"config": {}, "versions": {}, "fingerprints": {}} | more
