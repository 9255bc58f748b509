"""Whether Dataflow and the launcher would take a launch request."""

import json
import pathlib
import re
from typing import Any

from google.cloud import dataflow_v1beta3 as dataflow

from pipelines import options as flags

_METADATA = pathlib.Path(__file__).parents[2] / "templates" / "dataflow" / "quad.json"


def assert_launchable(body: dict[str, Any]) -> None:
    """Checks the parameters as Dataflow does, and parses them as the launcher does."""
    assert list(body) == ["launchParameter"]
    launched = dataflow.LaunchFlexTemplateParameter.from_json(json.dumps(body["launchParameter"]))
    metadata = dataflow.TemplateMetadata.from_json(_METADATA.read_text())
    known = {p.name: p for p in metadata.parameters}
    given = dict(launched.parameters)
    assert {n for n, p in known.items() if not p.is_optional} <= set(given) <= set(known)
    for name, value in given.items():
        assert all(re.fullmatch(r, value) for r in known[name].regexes), name
    flags.parse([f"--{name}={value}" for name, value in given.items()])
    assert re.fullmatch("[a-z]([-a-z0-9]{0,61}[a-z0-9])?", launched.job_name)
    assert launched.container_spec_gcs_path.startswith("gs://")
    assert launched.environment.sdk_container_image
