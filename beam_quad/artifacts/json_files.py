"""Small artifacts in JSON."""

import json

from beam_quad.artifacts import files


def read_json(path: str) -> dict:
    """Reads a small JSON artifact."""
    return dict(json.loads(files.read_bytes(path)))


def write_json(path: str, value: object) -> None:
    """Writes a small JSON artifact once, with sorted keys."""
    files.write_once(path, json.dumps(value, sort_keys=True, indent=1).encode())
