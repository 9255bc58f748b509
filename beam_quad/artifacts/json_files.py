"""Small artifacts in JSON."""

import json
from typing import Any

from beam_quad.artifacts import files


def read_json(path: str) -> dict:
    """Reads a small JSON artifact."""
    return dict(json.loads(files.read_bytes(path)))


def find_json(path: str) -> Any:
    """Reads a small file of JSON that may be missing, or another program's; None if there is no JSON."""
    if not files.exists(path):
        return None
    try:
        return json.loads(files.read_bytes(path))
    except ValueError:
        return None


def write_json(path: str, value: object) -> None:
    """Writes a small JSON artifact once, with sorted keys."""
    files.write_once(path, json.dumps(value, sort_keys=True, indent=1).encode())
