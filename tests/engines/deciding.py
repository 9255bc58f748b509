"""What of an output decides its selection, and so must be the same on every engine."""

import json

from beam_quad.artifacts import clock, files

# Clocks, attempts, what a run was told, and where the input lay: no result depends on them.
_NOT_DECIDING = (*clock.ENDINGS, "/configuration", "/options.json", "/stages.json", "/fitted.json")
_PLACES = ("/corpus/", "/query_plan/")
# Names the splits of each part, and with them the versions that a store gave the input.
_PARTS = "_run/parts/"


def deciding(output: str) -> dict[str, bytes]:
    """Reads the selection, the manifest and all artifacts under `_run` that decide them, by name within the output.

    Names hold fingerprints of the input's version, so compare names between runs on the very same files only, and
    contents (the values) between copies of them.
    """
    root = files.absolute(output) + "/"
    found = {info.path.removeprefix(root): info.path for info in files.find(output)}
    return {name: files.read_bytes(path) for name, path in found.items() if _decides(name)}


def contents(output: str) -> list[bytes]:
    """Reads the same without the names, and of the manifest without the places: what copies of an input have alike."""
    found = deciding(output)
    manifest = json.loads(found.pop("manifest.json"))
    for name in ("input", "input_root", "query"):
        manifest["config"].pop(name)
    for name in ("root", "snapshot"):
        manifest["input"].pop(name)
    manifest["fingerprints"].pop("query")
    manifest.pop("configuration")
    return sorted([*found.values(), json.dumps(manifest, sort_keys=True).encode()])


def _decides(name: str) -> bool:
    if name.startswith(_PARTS):
        return False
    if name.startswith("_run/"):
        is_plan = any(place in name for place in _PLACES) and name.endswith(".json.gz")
        return not name.endswith(_NOT_DECIDING) and not is_plan
    return name.startswith(("selected/", "rejected/")) or name == "manifest.json"
