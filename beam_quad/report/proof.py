"""The page of a proof, and its lines for a terminal: what a selection is worth, from what `proof.json` says."""

from collections.abc import Iterator, Mapping
from typing import Any

from beam_quad.report.formatting import count, decimal, signed
from beam_quad.report.markup import Column, Html, Section, join, table, tag
from beam_quad.report.report import page

_SETS = {"held_out": "held-out query texts", "general": "texts of the general mix"}
_LEADS = {
    "held_out": "Texts of the query set that steered nobody, and that no training has read.",
    "general": "A hash sample of the corpus that no training has read: what the selection costs elsewhere.",
}
_COLUMNS = (
    Column("Trained on", "text"),
    Column("Loss", hint="mean over seeds, nats per token"),
    Column("Gain", hint="fall of the loss, with its 95 % interval"),
    Column("Lead of the selection", hint="its gain less that of this row, with its 95 % interval"),
    Column("Worth of the selection", hint="its gain over that of this row, with its 95 % interval"),
)


def render_proof(proof: Mapping[str, Any]) -> str:
    """Makes the page.

    Args:
      proof: What `proof.json` holds.

    Returns:
      An HTML document, the same for the same proof.
    """
    recipe = proof["recipe"]
    passes = f"{recipe['num_passes']} passes over " if recipe["num_passes"] > 1 else ""
    subtitle = (
        f"{passes}{count(recipe['num_tokens'])} tokens a training, {count(recipe['num_steps'])} steps at a learning rate of "
        f"{recipe['learning_rate']:g}, {count(proof['num_seeds'])} trainings of each contender"
        f"{', from scratch' if proof['is_from_scratch'] else ''}"
    )
    header = tag(
        "header",
        tag("h1", "Proof of the selection"),
        tag("p", subtitle, class_="muted"),
        tag("p", _capitalised(proof["verdict"]), class_="verdict"),
        tag("p", _capitalised(proof["by_group"])) if "groups" in proof else None,
        tag("p", _capitalised(proof["price"])) if proof["price"] else None,
        id="summary",
    )
    sections = [_section(proof, name).to_html() for name in _SETS if name in proof]
    if "groups" in proof:
        sections.insert(1, _groups(proof["groups"]).to_html())
    method = Section("method", "How it is measured", tag("p", _capitalised(proof["method"])))
    body = join([header, tag("main", *sections, method.to_html())])
    return page("Proof of the selection", body)


def about_proof(proof: Mapping[str, Any]) -> Iterator[str]:
    """Puts a proof in lines: the losses by contender, and the verdict last.

    Args:
      proof: What `proof.json` holds.
    """
    for name, words in _SETS.items():
        if name not in proof:
            continue
        results = proof[name]
        contenders = ", ".join(
            f"{contender} {result['loss']:.4f}"
            for contender, result in _by_loss(results["contenders"])
        )
        num_texts = proof["measured"][name]["texts"]
        words += _over_groups(proof, name)
        yield f"loss of {num_texts:,} {words}: before {results['before']:.4f}; after {contenders}"
    if "groups" in proof:
        yield proof["by_group"]
    if proof["price"]:
        yield proof["price"]
    yield proof["verdict"]


def _section(proof: Mapping[str, Any], name: str) -> Section:
    results, counts = proof[name], proof["measured"][name]
    left_out = f" {count(counts['trained_on'])} more are trained on, and left out."
    return Section(
        name.replace("_", "-"),
        f"Loss of {count(counts['texts'])} {_SETS[name]}{_over_groups(proof, name)}: {decimal(results['before'], 4)} before",
        table(_COLUMNS, (_row(*each) for each in _by_loss(results["contenders"]))),
        _LEADS[name] + (left_out if counts["trained_on"] else ""),
    )


def _over_groups(proof: Mapping[str, Any], name: str) -> str:
    if name != "held_out" or "groups" not in proof:
        return ""
    return f", the weighted mean over {count(len(proof['groups']))} query groups"


def _groups(groups: Mapping[str, Mapping[str, Any]]) -> Section:
    """A table of all query groups, each from the best contender to the worst."""
    columns = (
        Column("Query group", "text"),
        Column("Weight", hint="of the group in the mean, by --query_weight"),
        Column("Texts", hint="held-out texts that measure"),
        Column("Loss before", hint="of the model before the trainings, nats per token"),
        *_COLUMNS,
    )
    rows = []
    for name, group in groups.items():
        about: list[object] = [
            name,
            f"{group['weight']:g}",
            count(group["measured"]["texts"]),
            decimal(group["before"], 4),
        ]
        for each in _by_loss(group["contenders"]):
            rows.append([*about, *_row(*each)])
            about = ["", "", "", ""]
    return Section(
        "groups",
        "By query group",
        table(columns, rows),
        "The same trainings, measured on the held-out texts of each group alone.",
    )


def _by_loss(contenders: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    return sorted(contenders.items(), key=lambda item: (item[1]["loss"], item[0]))


def _row(name: str, result: Mapping[str, Any]) -> list[object]:
    worth = result.get("worth")
    if "lead" not in result:
        against: list[Any] = ["", ""]
    else:
        times = "no gain to compare with" if worth is None else join([_interval(worth), " times"])
        against = [_interval(result["lead"], is_signed=True), times]
    return [
        tag("strong", name) if name == "selection" else name,
        decimal(result["loss"], 4),
        _interval(result["gain"], is_signed=True),
        *against,
    ]


def _interval(numbers: list[float], is_signed: bool = False) -> Html:
    write = signed if is_signed else decimal
    value, low, high = (write(number, 3) for number in numbers)
    return join([value, tag("span", f" ({low} to {high})", class_="muted")])


def _capitalised(sentence: str) -> str:
    return f"{sentence[:1].upper()}{sentence[1:]}."
