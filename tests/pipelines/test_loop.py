"""The stages of a command line in a plain loop, held to Beam byte by byte."""

import pathlib
import shutil

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


def test_a_refresh_on_beam_leaves_the_files_of_a_plain_loop(world, tmp_path):
    months = tmp_path / "corpus"
    months.mkdir()
    shards = sorted(pathlib.Path(world.corpus).iterdir())
    for shard in shards[1:]:
        shutil.copy2(shard, months / shard.name)
    flags = {"input": str(months), "acceptance": "shortlist", "layers": "all+head"}
    world.run(tmp_path / "loop", **flags)
    shutil.copytree(tmp_path / "loop", tmp_path / "beam")
    shutil.copy2(shards[0], months / shards[0].name)
    for name, play in (("beam", world.launch), ("loop", world.run)):
        # A manifest names its base, which stands in one place for both; each adds to artifacts of its own.
        base = (tmp_path / name).rename(tmp_path / "base")
        play(tmp_path / f"{name}-next", base=base, budget_tokens="+600", **flags)
        base.rename(tmp_path / name)
    hold_to_loop(tmp_path / "beam-next", tmp_path / "loop-next")
    # What the two share they have made in the same way, too.
    hold_to_loop(tmp_path / "beam", tmp_path / "loop")


def hold_to_loop(output: pathlib.Path, expected: pathlib.Path) -> None:
    """Compares everything that two runs wrote, except their clocks."""
    assert (output / "COMPLETE").exists()
    assert deciding(str(output)) == deciding(str(expected))
