"""The page and the terminal lines of a proof, which shows a selection's worth, made from `proof.json`."""

from collections.abc import Iterator, Mapping
from typing import Any

from beam_quad.report import pages
from beam_quad.report.formatting import count, decimal
from beam_quad.report.pages import Section

_SETS = {"held_out": "held-out query texts", "general": "texts of the general mix"}
_LEADS = {
    "held_out": "Texts of the query set that steered nobody, and that no training has read.",
    "general": "A hash sample of the corpus that no training has read: what the selection costs elsewhere.",
}


def render_proof(proof: Mapping[str, Any]) -> str:
    """Makes the page.

    Args:
      proof: The content of `proof.json`.

    Returns:
      An HTML document; equal proofs give equal output.
    """
    sections = [_contenders(proof, name) for name in _SETS if name in proof]
    if "groups" in proof:
        groups = [(name, own, _by_loss(own["contenders"])) for name, own in proof["groups"].items()]
        lead = "The same trainings, measured on the held-out texts of each group alone."
        by_group = Section("groups", "By query group", {"groups": groups}, lead, "contenders")
        # After the held-out texts, which the groups divide, and before the general mix.
        sections.insert(1, by_group)
    method = {"sentence": proof["method"]}
    sections.append(Section("method", "How it is measured", method, template="method"))
    return pages.render("proof.j2", title="Proof of the selection", proof=proof, sections=sections)


def about_proof(proof: Mapping[str, Any]) -> Iterator[str]:
    """Yields the lines of a proof: the losses by contender, then the verdict.

    Args:
      proof: The content of `proof.json`.
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


def _contenders(proof: Mapping[str, Any], name: str) -> Section:
    results, counts = proof[name], proof["measured"][name]
    left_out = f" {count(counts['trained_on'])} more are trained on, and left out."
    return Section(
        name.replace("_", "-"),
        f"Loss of {count(counts['texts'])} {_SETS[name]}{_over_groups(proof, name)}: {decimal(results['before'], 4)} before",
        {"groups": [(None, results, _by_loss(results["contenders"]))]},
        _LEADS[name] + (left_out if counts["trained_on"] else ""),
        "contenders",
    )


def _over_groups(proof: Mapping[str, Any], name: str) -> str:
    # The general mix is one sample, whatever the groups.
    if name != "held_out" or "groups" not in proof:
        return ""
    return f", the weighted mean over {count(len(proof['groups']))} query groups"


def _by_loss(contenders: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    return sorted(contenders.items(), key=lambda item: (item[1]["loss"], item[0]))
