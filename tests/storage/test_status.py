"""How a run stands, asked of an object store."""

import json

from beam_quad.artifacts import files
from pipelines import status


def test_a_run_in_an_object_store_stands_as_on_a_disk(finished, root, capsys):
    for path in finished.rglob("*"):
        if path.is_file():
            files.write_once(f"{root}/out/{path.relative_to(finished)}", path.read_bytes())
    said = []
    for output in (str(finished), f"{root}/out"):
        assert status.main([output, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        said.append({name: value for name, value in found.items() if name != "last_file"})
    assert said[0] == said[1]
    files.delete([f"{root}/out/COMPLETE"])
    assert status.main([f"{root}/out"]) == 4
    assert status.main([f"{root}/nothing"]) == 2
