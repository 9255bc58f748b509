"""The tables for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from tests.benchmarks.landmarks import clocked, embeddings
from tests.benchmarks.landmarks.clocked import Cost
from tests.benchmarks.landmarks.scores import EKFAC, PLAIN, SKETCHED
from tests.benchmarks.landmarks.selection import Row

_TITLES = {
    embeddings.JVP: "JVP",
    embeddings.MINILM: "MiniLM",
    embeddings.HASHING: "hashed words",
    embeddings.RANDOM: "random (the floor)",
    embeddings.LABELS: "domain labels",
    clocked.FORWARD: "forward (RDS+)",
    clocked.EXACT: "exact influence, one target",
    clocked.SKETCH: "a landmark's gradient",
    clocked.CURVATURE: "EK-FAC's fit",
}
_VARIANTS = {PLAIN: "plain gradient", EKFAC: "EK-FAC", SKETCHED: "EK-FAC, sketched"}
_FIELDS = ("domain_auc", "domain_share")


def show_quality(figures: Mapping[str, Any]) -> None:
    """Prints how good scores are: exact ones, sketches and propagated ones."""
    _show_domains(figures, figures["targets"])
    _show_sketches(figures)
    _show_propagation(figures)


def _show_domains(figures: Mapping[str, Any], targets: Sequence[str]) -> None:
    print(
        "\nHow well do scores single out the target's own domain: area under the curve / share of the domain among the\n"
        "best scores, as many as it has documents. Propagated: from the most landmarks, on all other documents\n"
    )
    print(f"{'target':<18}{'scores':<20}{'mean':>12}" + "".join(f"{t:>13}" for t in targets))
    for variant, title in _VARIANTS.items():
        rows = {}
        if variant in figures["exact_domain_auc"]:
            rows["exact"] = [figures[f"exact_{field}"][variant] for field in _FIELDS]
        for name in figures["domain_auc"][variant]:
            columns = (figures[field][variant][name] for field in _FIELDS)
            rows[_TITLES[name]] = [list(by_count.values())[-1] for by_count in columns]
        for row, (auc, share) in rows.items():
            each = zip(auc["targets"], share["targets"], strict=True)
            cells = [f"{auc['mean']:>7.3f}/{share['mean']:.2f}"]
            cells += [f"{a:>8.3f}/{s:.2f}" for a, s in each]
            print(f"{title:<18}{row:<20}{''.join(cells)}")
    print()


def _show_sketches(figures: Mapping[str, Any]) -> None:
    print(
        "Sketches against exact cosines, from the best to the worst target: rank correlation, deviation of the errors\n"
        "and of the cosines themselves, largest error\n"
    )
    for kind in figures["sketch_spearman"]:
        spearman, error, spread, largest = (
            figures[field][kind]
            for field in ("sketch_spearman", "sketch_error", "cosine_deviation", "sketch_max_error")
        )
        print(
            f"{_VARIANTS[kind]:<18}{max(spearman):.4f}-{min(spearman):.4f}{max(error):>10.4f} of "
            f"{min(spread):.4f}-{max(spread):.4f}{max(largest):>10.4f}"
        )


def _show_propagation(figures: Mapping[str, Any]) -> None:
    print(
        "\nPropagated against exact, on all documents but the landmarks: rank correlation ± deviation over draws, and\n"
        "share of the true top 5 % in the predicted top 5 %; means over targets. Domain labels as an embedding tell what\n"
        "knowing the domain, and nothing else, is worth; sketched: the landmarks' own scores come of sketches\n"
    )
    first = next(iter(figures["spearman"]["plain"].values()))
    print(f"{'target':<18}{'embedding':<20}" + "".join(f"{c + ' landmarks':>18}" for c in first))
    for variant, by_embedding in figures["spearman"].items():
        for name, by_count in by_embedding.items():
            shares = figures["top_share"][variant][name]
            cells = [
                f"{own['mean']:>8.3f} ±{own['deviation']:.3f} {shares[count]['mean']:.2f}"
                for count, own in by_count.items()
            ]
            print(f"{_VARIANTS[variant]:<18}{_TITLES[name]:<20}{''.join(cells)}")


def show_costs(costs: Mapping[str, Cost], length: int) -> None:
    """Prints what one document costs."""
    forward = costs[clocked.FORWARD]
    print(
        f"\nCost of a document of {length} tokens, one thread; formula: over what was counted. That of MiniLM leaves out "
        "attention,\nand that a batch is padded to its longest text, which weighs most where texts are few\n"
    )
    print(f"{'':<30}{'MFLOPs':>10}{'formula':>9}{'x forward':>11}{'CPU ms':>9}{'x forward':>11}")
    for name, cost in costs.items():
        formula = f"{cost.formula / cost.flops:.3f}" if cost.flops else ""
        print(
            f"{_TITLES[name]:<30}{cost.flops / 1e6:>10,.0f}{formula:>9}{cost.flops / forward.flops:>11.3f}"
            f"{1e3 * cost.seconds:>9.1f}{cost.over_forward:>11.3f}"
        )


def show_selections(rows: Sequence[Row]) -> None:
    """Prints what selections cost over one forward pass, and over exact influence, of every document."""
    print(
        "\nCost of a selection for one target, over one forward pass of every document (the paper: 0.29 at best, 3.5x "
        "cheaper),\nits parts, and over exact influence of every document\n"
    )
    head = ("embed", "landmarks", "target", "propagate", "total", "x cheaper", "of exact")
    print(f"{'proxy':<18}{'documents':>14}{'landmarks':>10}  {'embedding':<14}", end="")
    print("".join(f"{title:>10}" for title in head))
    for proxy, num_documents, name, cost in rows:
        parts = (cost.embedding, cost.landmarks, cost.target, cost.propagation, cost.total)
        shares = [part / cost.forward for part in parts]
        cells = [f"{share:>10.3g}" for share in (*shares, 1 / cost.over_forward, cost.over_exact)]
        print(
            f"{proxy:<18}{num_documents:>14,}{cost.num_landmarks:>10,}  {_TITLES[name]:<14}", end=""
        )
        print("".join(cells))
    print()
