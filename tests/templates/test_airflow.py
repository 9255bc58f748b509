"""The monthly refresh: parsed by Airflow itself, and its launch request checked as Dataflow would."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import jinja2
import pytest

from tests.templates.launchable import assert_launchable

DAGS = pathlib.Path(__file__).parents[2] / "templates" / "airflow"

# Runs in Airflow's environment, which is not ours: the two pin different versions of much.
_PARSE = """
import json, sys
try:
    from airflow.dag_processing.dagbag import DagBag
except ImportError:  # before Airflow 3.2
    from airflow.models.dagbag import DagBag
bag = DagBag(dag_folder=sys.argv[1])
assert not bag.import_errors, bag.import_errors
dag, = bag.dags.values()
task, = dag.tasks
assert dag.max_active_runs == 1 and not dag.catchup and task.deferrable
assert dag.schedule == "0 3 1 * *", dag.schedule
print("PARSED " + json.dumps({"body": task.body, "params": dag.params.dump()}))
"""


@pytest.fixture(scope="module")
def airflow() -> str | None:
    """A Python that has Airflow."""
    here = sys.executable if importlib.util.find_spec("airflow") else None
    return os.environ.get("BEAM_QUAD_AIRFLOW_PYTHON", here)


def test_the_monthly_refresh_parses_and_launches(
    airflow: str | None, lacking: Callable[[str], None], tmp_path: pathlib.Path
):
    if airflow is None:
        lacking("no Airflow: name a Python that has it in BEAM_QUAD_AIRFLOW_PYTHON")
    settings = {"AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    parsed = subprocess.run(
        [airflow, "-c", _PARSE, str(DAGS)],
        env=os.environ | settings, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert parsed.returncode == 0, parsed.stderr
    line = next(x for x in parsed.stdout.splitlines() if x.startswith("PARSED "))
    found = json.loads(line.removeprefix("PARSED "))
    body = render(found["body"], found["params"])
    assert_launchable(body)
    parameters = body["launchParameter"]["parameters"]
    assert parameters["output"] == "gs://BUCKET/selections/2025-02-01"
    # A folder of dated outputs, of which the newest before this one is meant.
    assert parameters["base"] == "gs://BUCKET/selections"


def render(body: object, params: dict[str, object]) -> dict:
    """Fills the templates of a body in as Airflow does for the run of January 2025."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    environment.filters["ds"] = lambda day: day
    environment.filters["ds_nodash"] = lambda day: day.replace("-", "")
    template = environment.from_string(json.dumps(body))
    context = {"params": params, "data_interval_end": "2025-02-01"}
    return json.loads(template.render(context))
