"""The pipeline of Beam YAML that is handed to users does what `beam-quad select` does."""

import collections
import importlib.util
import json
import pathlib
import shutil

import apache_beam as beam
import pyarrow.parquet as pq
import pytest
from apache_beam.yaml import main

from beam_quad.errors import UsageError
from pipelines.beam_yaml import SelectByInfluence
from tests.pipelines.world import World, output_bytes

EXAMPLE = pathlib.Path(__file__).parents[2] / "templates" / "beam_yaml" / "select.yaml"

# Flags that a world sets, and the example does not.
WORLD_S_OWN = (
    "embedder", "num_clusters", "num_rounds", "blocks_per_cluster", "curvature_examples", "threads", "max_cluster_share",
    "acceptance",
)  # fmt: skip


def counted(output: pathlib.Path) -> dict[str, int]:
    """Reads what the example wrote, and deletes it."""
    paths = list(output.glob("tokens_by_shard*"))
    lines = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    for path in paths:
        path.unlink()
    return {line["shard"]: line["tokens"] for line in lines}


def test_the_example_selects_what_the_command_selects_and_goes_on_with_it(
    world: World, tmp_path, lacking
):
    if importlib.util.find_spec("jsonschema") is None:
        lacking("apache-beam[yaml] is not installed")
    variables = {
        "input": world.corpus, "query": world.query, "proxy": world.proxy, "output": str(tmp_path / "yaml"), "budget": 3000,
        "policy": "random",
    }  # fmt: skip
    arguments = [f"--yaml_pipeline_file={EXAMPLE}", f"--jinja_variables={json.dumps(variables)}"]
    main.run([*arguments, "--runner=FnApiRunner"])
    world.run(tmp_path / "loop", policy="random", **dict.fromkeys(WORLD_S_OWN))
    assert output_bytes(tmp_path / "yaml") == output_bytes(tmp_path / "loop")
    expected: collections.Counter[str] = collections.Counter()
    for path in (tmp_path / "yaml" / "selected").glob("*.parquet"):
        for row in pq.read_table(path).column("beam_quad").to_pylist():
            expected[row["example_id"].partition("#")[0]] += row["tokens"]
    assert counted(tmp_path / "yaml") == expected
    # A selection that is complete needs nothing but its parts.
    shutil.rmtree(tmp_path / "yaml" / "_run")
    main.run([*arguments, "--runner=FnApiRunner"])
    assert counted(tmp_path / "yaml") == expected


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"method": "choose"}, "method must be one of select, distill"),
        ({"bugdet": 3}, "SelectByInfluence: unknown flag --bugdet"),
        ({"runner": "FlinkRunner"}, "--runner=FlinkRunner is Beam's"),
        ({"plan": True}, "plan is for the command"),
        ({"seed": {"a": 1}}, "SelectByInfluence: seed must be a value or a list"),
    ],
)
def test_a_config_that_cannot_be_is_refused_when_the_pipeline_is_built(tmp_path, flags, words):
    required = {
        "input": "i",
        "output": str(tmp_path / "o"),
        "budget_tokens": 1,
        "tokens_column": "n",
    }
    with pytest.raises(UsageError, match=words):
        beam.Pipeline() | SelectByInfluence(**required | {"policy": "random"} | flags)
    assert not (tmp_path / "o").exists()
