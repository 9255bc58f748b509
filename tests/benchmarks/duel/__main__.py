"""What does a model learn from each selection? `python -m tests.benchmarks.duel [--quick]`.

Policies select for query domains, most of them from another source than the corpus, and the proxy goes on training on each
selection: the same tokens, recipe and orders for all. Measured is the loss on held-out query texts, which no score has
seen, and on a general mix of prose. `figures` says what the intervals mean. The last line is one JSON object.

Protocols: `demo`, the demo's (go on training from the proxy on the budget); `tiny`, at a tenth of the learning rate; `scratch`,
a new model on the selection and as many tokens of random texts.

Proxies: `small`, the demo's of 1.1 M parameters; `middle`, of 5.6 M, trained three times as long; `smollm2`, SmolLM2-135M.
Scores and trainings are kept by their content, so that another run only adds what is new. Lists are separated by commas.
"""

import argparse
import json
import os
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

# Before torch is imported: threads that spin while they wait would slow the others.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import transformers

from beam_quad.errors import UsageError
from pipelines.demo.command import Clock
from tests.benchmarks.duel import word_order
from tests.benchmarks.duel.kept import Kept
from tests.benchmarks.duel.material import GENERAL, Source, prepare
from tests.benchmarks.duel.policies import CORE, POLICIES, RANDOM
from tests.benchmarks.duel.scores import Scores
from tests.benchmarks.duel.sizes import SIZES
from tests.benchmarks.duel.tables import Duel
from tests.benchmarks.duel.training import PROTOCOLS, Trainer, Training

_CACHE = pathlib.Path.home() / ".cache" / "beam_quad" / "counterfactual"
DEFAULT = "shortlist-head"


def run(
    proxy_name: str,
    is_quick: bool,
    models: pathlib.Path,
    manuals: pathlib.Path | None,
    policies: Sequence[str],
    protocols: Sequence[str],
    domains: Sequence[str] | None,
    num_seeds: int | None,
    default: str,
) -> dict[str, Any]:
    """Runs one proxy's duel and prints its tables; returns the figures by protocol."""
    size = SIZES[proxy_name + ", quick" * is_quick]
    say = Clock()
    models.mkdir(parents=True, exist_ok=True)
    source = Source.manuals(manuals) if manuals else Source.demo(models)
    domains = domains or (size.domains if manuals is None else tuple(source.domains))
    if unknown := [name for name in domains if name not in source.domains]:
        raise UsageError(f"{unknown[0]!r} is none of {', '.join(source.domains)}")
    material = prepare(proxy_name, size, source, domains, models, say)
    kept = Kept(models / "duel", say)
    say(
        f"proxy {proxy_name}; {len(material.texts):,} documents of {material.lengths.sum():,} tokens, "
        f"budget {size.budget_tokens:,}"
    )
    plain, shuffled = word_order.shuffling_costs(material, kept)
    say(
        f"general mix {plain:.3f}, its words shuffled {shuffled:.3f}: order is worth {shuffled - plain:.3f} nats a token"
    )
    scores = Scores(material, kept)
    names = list(dict.fromkeys([RANDOM, *policies]))
    selections, scored = select(scores, names, num_seeds or size.num_seeds)
    trainer = Trainer(material, kept)
    figures = {"word_order": round(shuffled - plain, 4)}
    for protocol in protocols:
        duel = train(scores, trainer, selections, scored, protocol, default)
        duel.show()
        figures[protocol] = duel.as_json()
    return figures


# By policy, domain and seed; and the mean share of the corpus that a policy computed influence for.
Selections = dict[tuple[str, str, int], tuple[int, ...]]
Scored = dict[str, float]


def select(scores: Scores, names: Sequence[str], num_seeds: int) -> tuple[Selections, Scored]:
    """Selects for every domain."""
    material, found, scored = scores.material, Selections(), Scored()
    for name in names:
        policy, shares = POLICIES[name], []
        for domain in material.splits:
            for seed in range(num_seeds):
                if seed and not policy.draws:
                    found[name, domain, seed] = found[name, domain, 0]
                    continue
                choice = policy.choose(scores, domain, seed)
                if choice is None:
                    break
                found[name, domain, seed] = material.cut(choice.order)
                shares.append(choice.scored)
        scored[name] = float(np.mean(shares)) if shares else 0.0
        scores.kept.say(f"selected by {name}")
    return found, scored


def train(
    scores: Scores,
    trainer: Trainer,
    selections: Selections,
    scored: Scored,
    protocol: str,
    default: str,
) -> Duel:
    """Trains on all selections, and puts the losses in order."""
    material = scores.material
    wanted: dict[Training, set[str]] = {}
    for (_, domain, seed), chosen in selections.items():
        wanted.setdefault(Training(protocol, chosen, seed), {GENERAL}).add(domain)
    losses = trainer.measure({training: sorted(names) for training, names in wanted.items()})
    query: dict[str, dict[str, list[Any]]] = {domain: {} for domain in material.splits}
    general: dict[str, dict[str, list[Any]]] = {domain: {} for domain in material.splits}
    kinds: dict[str, dict[str, float]] = {domain: {} for domain in material.splits}
    for (name, domain, seed), chosen in selections.items():
        training = Training(protocol, chosen, seed)
        query[domain].setdefault(name, []).append(losses[training, domain])
        general[domain].setdefault(name, []).append(losses[training, GENERAL])
        if own := material.domains[domain].own:
            kinds[domain][name] = float(np.isin(material.sources[list(chosen)], own).mean())
    names = (*material.splits, GENERAL)
    return Duel(
        protocol=protocol,
        default=default,
        before={}
        if PROTOCOLS[protocol].from_scratch
        else {name: trainer.before(name).mean for name in names},
        query=query,
        general=general,
        kinds=kinds,
        scored=scored,
        same_source=frozenset(name for name, own in material.domains.items() if own.is_same_source),
        seconds={name: _seconds(scores, name, share) for name, share in scored.items()},
    )


def _seconds(scores: Scores, name: str, scored: float) -> float:
    """Adds up what a policy's scores take: one pass over the corpus for all domains."""
    cheap = sum(scores.cpu_seconds(source) for source in POLICIES[name].looks_at)
    return cheap + (scored * scores.cpu_seconds("influence") if scored else 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.duel", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add(
        "--quick",
        action="store_true",
        help="few texts, domains and tokens: a test of the benchmark",
    )
    add("--proxy", choices=("small", "middle", "smollm2"), default="small")
    add("--policies", type=_list(POLICIES), default=list(CORE), help=f"of {', '.join(POLICIES)}")
    add("--protocols", type=_list(PROTOCOLS), default=["demo"], help=f"of {', '.join(PROTOCOLS)}")
    add(
        "--manuals",
        type=pathlib.Path,
        help="folder of the second corpus, in place of the demo's; see tests/benchmarks/duel/manuals.py",
    )
    add("--domains", type=lambda text: text.split(","), help="query domains of the corpus")
    add("--seeds", type=int, help="orders of training")
    add("--default", choices=list(POLICIES), default=DEFAULT, help="the policy that is defended")
    add("--models", type=pathlib.Path, default=_CACHE, help="keeps what is made")
    arguments = parser.parse_args()
    warnings.filterwarnings(
        "ignore", category=FutureWarning
    )  # of what sentence-transformers imports
    transformers.utils.logging.disable_progress_bar()
    try:
        figures = run(
            arguments.proxy,
            arguments.quick,
            arguments.models.expanduser(),
            arguments.manuals,
            arguments.policies,
            arguments.protocols,
            arguments.domains,
            arguments.seeds,
            arguments.default,
        )
    except UsageError as error:
        parser.error(str(error))
    print(json.dumps({arguments.proxy: figures}))


def _list(choices: Any) -> Any:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in choices]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(choices)}")
        return names

    return parse


if __name__ == "__main__":
    main()
