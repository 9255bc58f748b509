"""What the manifest alone tells: rows and tokens from input to selection, shares of the budget, changes since the last run."""

from beam_quad.report.data import ReportData
from beam_quad.report.formatting import count
from beam_quad.report.judgements import about_splits, left_because
from beam_quad.report.pages import Section

# What a unit of the ranking means, if its name does not say so.
_MEASURES = {
    "joint rank": " The joint rank of a document is its rank by n-grams in the shortlist plus half its rank by influence, both in "
    "standard deviations from the middle of the list."
}


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
        # A baseline may score nothing, and a row of 0 would look like a failure.
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


def shares(data: ReportData) -> Section | None:
    """Shows each bound with its price; None if there is no bound."""
    facts = data.manifest.get("shares")
    if facts is None:
        return None
    rows = [
        (
            own["bound"], f"{own['relation']} {count(own['asked'])}", count(own["selected"]), own["share"],
            own["price_per_million"], own["saving_per_million"],
        )
        for own in facts["bounds"]
    ]  # fmt: skip
    if (caps := facts.get("clusters")) is not None:
        # One bound on thousands of clusters is one row, with the cost of the cluster that it costs most.
        name = f"each cluster: {caps['bound']} ({count(caps['binding'])} reach it)"
        most = f"{count(caps['most_selected'])} at most"
        price = caps["highest_price_per_million"]
        rows.append((name, f"<= {count(caps['asked'])}", most, None, price, None))
    # Of a refresh, which takes what it had before in any case, none is known.
    measure = facts["mean"]["of"]
    means = {} if facts["mean"]["selected"] is None else {measure: facts["mean"]}
    if "mean_influence" in facts:
        means["influence"] = facts["mean_influence"]
    lead = (
        f"A cost is what a million {facts['unit']} of a bound take from the selection's total {measure}: the next million if the bound "
        "is tightened, and the last million, which it gets back if the bound is loosened. A bound whose last million costs nothing is free."
        f"{_MEASURES.get(measure, '')} Means and costs are the estimates "
        "by which the shares were divided, from documents of like rank taken together; the other sections count what was scored."
    )
    return Section("shares", "Shares", {"unit": facts["unit"], "rows": rows, "means": means}, lead)


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
