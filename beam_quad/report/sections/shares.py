"""The shares of the budget: what each bound asked for, what it got, and what it cost."""

from collections.abc import Mapping
from typing import Any

from beam_quad.report.data import ReportData
from beam_quad.report.formatting import compact, count, decimal, percent
from beam_quad.report.markup import Column, Section, clean, join, table, tag

_READING = (
    "A price says what a million more of a bound would cost: the {unit} that the selection loses, summed over its {of}. A bound "
    "without a price costs nothing, as the selection would meet it anyway."
)


def shares(data: ReportData) -> Section | None:
    """Shows each bound with its price; None where there is none."""
    if data.shares is None:
        return None
    facts, of = data.shares, data.shares["unit"]
    columns = (
        Column("bound", "text"),
        Column(f"{of} asked for"),
        Column(f"{of} selected"),
        Column("of the budget"),
        Column("price of a million"),
    )
    rows = [
        (
            clean(own["bound"]),
            f"{own['relation']} {count(own['asked'])}",
            count(own["selected"]),
            percent(own["share"]),
            _price(own["price_per_million"]),
        )
        for own in facts["bounds"]
    ]
    if (caps := facts.get("clusters")) is not None:
        rows.append(
            (
                f"each cluster: {caps['bound']} ({count(caps['binding'])} reach it)",
                f"<= {count(caps['asked'])}",
                f"{count(caps['most_selected'])} at most",
                "",
                _price(caps["highest_price_per_million"]),
            )
        )
    lead = _READING.format(unit=facts["mean"]["of"], of=of)
    body = join([tag("p", _means(facts)), table(columns, rows)])
    return Section("shares", "Shares", body, lead)


def _price(price: float) -> str:
    return compact(price) if price else "0"


def _means(facts: Mapping[str, Any]) -> str:
    means = {facts["mean"]["of"]: facts["mean"]}
    if "mean_influence" in facts:
        means["influence"] = facts["mean_influence"]
    parts = [
        f"Mean {name} of the selection: {decimal(own['selected'])}; without these bounds {decimal(own['without_bounds'])}."
        for name, own in means.items()
    ]
    return " ".join(parts)
