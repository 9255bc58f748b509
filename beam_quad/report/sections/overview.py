"""Rows and tokens, from the input to the selection."""

from beam_quad.report.data import ReportData
from beam_quad.report.pages import Section


def funnel(data: ReportData) -> Section:
    """Shows rows from the input to the selection, rejections by reason, and tokens."""
    f = data.funnel
    by_reason = sorted(f.rejected.items(), key=lambda item: (-item[1], item[0]))
    # What it is, how many, in which colour, and whether it is a part of the line above.
    rows = [
        ("Read", f.read, "random", False),
        ("Rejected", sum(f.rejected.values()), "warning", False),
        *(
            (reason.replace("_", " "), number, "warning", True)
            for reason, number in by_reason
            if number
        ),
        *([] if f.scored is None else [("Scored", f.scored, "scored", False)]),
        ("Not selected", f.not_selected, "random", False),
        ("Selected", f.selected, "selected", False),
    ]
    tokens = [
        ("Read", f.tokens_read, "random", False),
        *([] if f.tokens_budget is None else [("Budget", f.tokens_budget, "scored", False)]),
        ("Selected", f.tokens_selected, "selected", False),
    ]
    groups = (("Rows", rows, f.read), ("Tokens", tokens, f.tokens_read))
    return Section(
        "funnel", "From the input to the selection", {"groups": groups, "bad_files": f.bad_files}
    )
