"""The plan as an artifact; workers read it by its path, because 10^5 splits do not fit into a job's graph."""

import base64
import dataclasses
import gzip
import json

import pyarrow as pa

from beam_quad.artifacts import files
from beam_quad.corpus.splits import InputPlan
from beam_quad.records import Split

_SCHEMAS = ("schema", "stored")


def write_plan(path: str, plan: InputPlan) -> None:
    """Writes a plan once."""
    fields = {f.name: getattr(plan, f.name) for f in dataclasses.fields(plan)}
    fields["splits"] = [dataclasses.astuple(split) for split in plan.splits]
    for name in _SCHEMAS:
        fields[name] = base64.b64encode(fields[name].serialize()).decode()
    # Sorted, and without a time in the header of gzip: equal plans are equal files.
    text = json.dumps(fields, sort_keys=True)
    files.write_once(path, gzip.compress(text.encode(), mtime=0))


def read_plan(path: str) -> InputPlan:
    """Reads a plan written by `write_plan`."""
    fields = json.loads(gzip.decompress(files.read_bytes(path)))
    fields["splits"] = tuple(Split(*values) for values in fields["splits"])
    for name in _SCHEMAS:
        fields[name] = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(fields[name])))
    return InputPlan(**fields)
