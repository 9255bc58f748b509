"""The stages of a command line in a plain loop, held to Beam byte by byte."""

import pathlib

import pytest

from tests.engines.deciding import deciding

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:apache_beam")


def test_quad_on_beam_leaves_the_files_of_a_plain_loop(world, finished, tmp_path):
    world.run(tmp_path / "out")
    hold_to_loop(finished, tmp_path / "out")


def test_influence_distillation_on_beam_leaves_the_files_of_a_plain_loop(
    world, targets, distilled, tmp_path
):
    world.distill(tmp_path / "out", query=None, query_group=targets, weighted=True)
    hold_to_loop(distilled, tmp_path / "out")


def test_repeated_ids_are_found_on_beam_as_in_a_plain_loop(world, tmp_path):
    flags = {"id_column": "n", "num_rounds": 1}
    world.launch(tmp_path / "beam", **flags)
    world.run(tmp_path / "loop", **flags)
    hold_to_loop(tmp_path / "beam", tmp_path / "loop")


def hold_to_loop(output: pathlib.Path, expected: pathlib.Path) -> None:
    """Compares everything that two runs wrote, except their clocks."""
    assert (output / "COMPLETE").exists()
    assert deciding(str(output)) == deciding(str(expected))
