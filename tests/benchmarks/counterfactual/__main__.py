"""Whether scores predict what training does: `python -m tests.benchmarks.counterfactual [--quick]`.

Groups of documents, each of one domain of the demo's corpus, are trained on, always from the same proxy model, and the
decrease of the loss on query documents is held against the mean score of the group:

- one small step of SGD on the tracked layers, which the gradients' dot product predicts to first order;
- one small step preconditioned by K-FAC's or EK-FAC's damped inverse, which those scores predict to first order;
- twenty AdamW steps on all parameters, as in pre-training, which is what a selection is for.

On the small proxy a training on all candidates is also repeated without a random fifth of them, again and again, and the rise of
the query loss is held against the fifth's scores. The metagradient, the exact derivative of the query loss after
that training by a weight on each document, is the ceiling of what scores of single documents can say of it.

Then settings are compared: by the rank correlation with the AdamW steps; by their gain, the decrease that the tenth of
the groups with the best scores gave (0: as the mean group, 1: as the best tenth); and by how well a document's score
singles out the query's own domain among all (area under the curve, and share of the domain among the best scores).
"""

import argparse
import json
import pathlib
import time
from typing import Any

from tests.benchmarks.counterfactual import tables
from tests.benchmarks.counterfactual.draws import draw, prepare
from tests.benchmarks.counterfactual.seeds import Result, measure
from tests.benchmarks.counterfactual.sizes import SIZES
from tests.benchmarks.duel.kept import Kept

_CACHE = pathlib.Path.home() / ".cache" / "beam_quad" / "counterfactual"


def run(proxy_name: str, is_quick: bool, models: pathlib.Path) -> dict[str, Any]:
    """Measures one proxy and prints the tables; returns the figures."""
    size = SIZES[proxy_name + ", quick" * is_quick]
    began = time.perf_counter()

    def say(line: str) -> None:
        print(f"[{time.perf_counter() - began:5.0f} s] {line}", flush=True)

    models.mkdir(parents=True, exist_ok=True)
    proxy, documents = prepare(proxy_name, size, models)
    say(f"proxy {proxy_name}, {len(documents):,} documents to draw from")
    kept = Kept(models / "retraining", lambda line: None)
    results: list[Result] = []
    for seed in range(size.num_seeds):
        results.append(measure(proxy, size, draw(size, documents, seed), kept, say))
    figures = tables.Figures(size, results).as_json()
    tables.show(proxy_name, size, figures)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.counterfactual", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="few groups and one seed")
    parser.add_argument("--proxy", choices=("scratch", "smollm2"), default="scratch")
    parser.add_argument("--models", type=pathlib.Path, default=_CACHE, help="keeps what is made")
    arguments = parser.parse_args()
    figures = run(arguments.proxy, arguments.quick, arguments.models)
    print(json.dumps({arguments.proxy: figures}))


if __name__ == "__main__":
    main()
