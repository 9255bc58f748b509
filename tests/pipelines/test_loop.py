"""The stages of a command line in a plain loop, held to Beam byte by byte."""

import pathlib

import pytest

from beam_quad.stages import run_in_process
from pipelines import chain, distillation_chain, distillation_options, options
from pipelines.builder import Chain
from pipelines.inputs import look
from tests.engines.deciding import deciding

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:apache_beam")


def test_quad_in_a_plain_loop_leaves_the_files_that_beam_leaves(world, finished, tmp_path):
    parsed, _ = options.parse(world.arguments(tmp_path / "out"))
    hold_to_beam(chain.build(parsed, look(parsed)), tmp_path / "out", finished)


def test_influence_distillation_in_a_plain_loop_leaves_the_files_that_beam_leaves(
    world, targets, distilled, tmp_path
):
    flags = {"query": None, "query_group": targets, "weighted": True}
    parsed, _ = distillation_options.parse(world.distillation_arguments(tmp_path / "out", **flags))
    hold_to_beam(distillation_chain.build(parsed, look(parsed)), tmp_path / "out", distilled)


def test_repeated_ids_are_found_in_a_plain_loop_as_on_beam(world, tmp_path):
    flags = {"id_column": "n", "num_rounds": 1}
    world.run(tmp_path / "beam", **flags)
    parsed, _ = options.parse(world.arguments(tmp_path / "loop", **flags))
    hold_to_beam(chain.build(parsed, look(parsed)), tmp_path / "loop", tmp_path / "beam")


def hold_to_beam(built: Chain, output: pathlib.Path, expected: pathlib.Path) -> None:
    """Runs a chain without Beam, and compares everything that it wrote but its clocks."""
    built.write_plans()
    run_in_process(built.stages)
    assert (output / "COMPLETE").exists()
    assert deciding(str(output)) == deciding(str(expected))
