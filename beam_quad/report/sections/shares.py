"""The shares of the budget: what each bound asked for, what it got, and what it cost."""

from beam_quad.report.data import ReportData
from beam_quad.report.formatting import count
from beam_quad.report.pages import Section

# What a unit of the ranking means, if its name does not say so.
_MEASURES = {
    "joint rank": " The joint rank of a document is its rank by n-grams in the shortlist plus half its rank by influence, both in "
    "standard deviations from the middle of the list."
}


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
