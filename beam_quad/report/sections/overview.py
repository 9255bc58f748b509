"""Rows and tokens, from the input to the selection."""

from beam_quad.report.data import ReportData
from beam_quad.report.pages import Section


def funnel(data: ReportData) -> Section:
    """Shows rows from the input to the selection, rejections by reason, and tokens."""
    counts, amounts = data.manifest["counts"], data.manifest["tokens"]
    by_reason = sorted(data.manifest["rejected"].items(), key=lambda item: (-item[1], item[0]))
    # What it is, how many, in which colour, and whether it is a part of the line above.
    rows = [
        ("Read", counts["read"], "random", False),
        ("Rejected", counts["rejected"], "warning", False),
        *(
            (reason.replace("_", " "), number, "warning", True)
            for reason, number in by_reason
            if number
        ),
        *([("Scored", counts["scored"], "scored", False)] if counts["scored"] else []),
        ("Not selected", counts["not_selected"], "random", False),
        ("Selected", counts["selected"], "selected", False),
    ]
    tokens = [
        ("Read", amounts["read"], "random", False),
        *([] if amounts["budget"] is None else [("Budget", amounts["budget"], "scored", False)]),
        ("Selected", amounts["selected"], "selected", False),
    ]
    groups = (("Rows", rows, counts["read"]), ("Tokens", tokens, amounts["read"]))
    view = {"groups": groups, "bad_files": counts["bad_files"]}
    return Section("funnel", "From the input to the selection", view)
