"""What a refresh changed in the selection that it went on from."""

from beam_quad.report.data import ReportData
from beam_quad.report.formatting import count
from beam_quad.report.judgements import about_splits, left_because
from beam_quad.report.pages import Section


def refresh(data: ReportData) -> Section | None:
    """Shows what stayed, what came and what left; None of a run that goes on from none."""
    found = data.manifest.get("refresh")
    if found is None:
        return None
    left = [(left_because(reason), amount) for reason, amount in sorted(found["left"].items())]
    view = {
        "found": found,
        "left": left,
        "tokens": found["kept"]["tokens"] + found["added"]["tokens"],
    }
    number = len(found["bases"])
    runs = "one run" if number == 1 else f"{count(number)} runs"
    lead = f"This selection goes on from {runs}; {about_splits(found['splits'])}."
    return Section("refresh", "Since the last run", view, lead)
