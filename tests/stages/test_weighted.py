"""`--weighted`: the column of first-order optimal weights."""

import pathlib

import numpy as np
import pyarrow.parquet as pq
import pytest

from beam_quad.artifacts.aligned import unpack_vectors
from pipelines import quad
from tests.pipelines.world import manifest_of, output_bytes, selected_rows
from tests.stages.pages import hold_to_quad

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:apache_beam")


def test_weights_of_a_ranking_are_the_excess_over_the_best_left_out_and_sum_to_the_corpus(
    world, tmp_path
):
    manifest = world.run(tmp_path / "out", policy="influence_top_k", weighted=True)
    rows = selected_rows(tmp_path / "out")
    influence = np.array([row["beam_quad"]["influence"] for row in rows])
    weights = np.array([row["weight"] for row in rows])
    files = (tmp_path / "out" / "_run").glob("corpus_scores/*/rows/*.parquet")
    columns = [pq.read_table(path).column("scores") for path in files]
    scores = np.concatenate([unpack_vectors(column, np.dtype(float))[:, 0] for column in columns])
    everything = np.sort(scores[np.isfinite(scores)])[::-1]
    expected = influence - everything[len(rows)]
    assert weights == pytest.approx(expected * len(everything) / expected.sum(), rel=1e-3)
    assert manifest["counts"]["read"] - manifest["counts"]["rejected"] == len(everything)


@pytest.fixture(scope="module", params=["block", "instance", "propagate"])
def weighted(request, world, tmp_path_factory):
    """A finished run of each acceptance, weighted, and the name of the acceptance."""
    output = tmp_path_factory.mktemp("weighted") / "out"
    world.run(output, weighted=True, acceptance=request.param, output_format="jsonl")
    return output, request.param


def test_weights_of_quad_are_positive_and_sum_to_the_corpus(weighted):
    output, _ = weighted
    counts = manifest_of(output)["counts"]
    weights = [row["weight"] for row in _lines(output)]
    assert len(weights) == counts["selected"]
    assert min(weights) > 0
    assert sum(weights) == pytest.approx(counts["read"] - counts["rejected"], rel=1e-9)


def test_the_pipeline_selects_and_weighs_by_each_acceptance_what_the_page_does(world, weighted):
    output, acceptance = weighted
    hold_to_quad(world, _lines(output), acceptance=acceptance)


def test_weights_change_nothing_else(world, finished, tmp_path):
    world.run(tmp_path / "out", weighted=True)
    rows = selected_rows(tmp_path / "out")
    by_block = {}
    for row in rows:
        why = row["beam_quad"]
        by_block.setdefault(why["block_influence"], set()).add(row["weight"])
    assert all(len(weights) == 1 for weights in by_block.values())
    ordered = [by_block[key].pop() for key in sorted(by_block)]
    assert ordered == sorted(ordered)
    assert [_chosen(row) for row in rows] == [_chosen(row) for row in selected_rows(finished)]
    rejected = [name for name in output_bytes(finished) if name.startswith("rejected/")]
    assert all(
        output_bytes(finished)[name] == output_bytes(tmp_path / "out")[name] for name in rejected
    )


def _chosen(row: dict) -> dict:
    """A row without its weight and without the name of the run."""
    return row | {"weight": None, "beam_quad": row["beam_quad"] | {"since": None}}


def test_what_cannot_be_weighed_is_refused(world, tmp_path, capsys):
    assert quad.main(world.arguments(tmp_path / "out", policy="random", weighted=True)) == 2
    assert "--weighted needs influence" in capsys.readouterr().err


def _lines(output: pathlib.Path) -> list[dict]:
    import json

    return [
        json.loads(line)
        for path in sorted(output.glob("selected/*.jsonl"))
        for line in path.read_text().splitlines()
    ]
