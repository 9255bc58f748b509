"""What becomes of columns, from the rows that the first stage reads to the files that the last one writes."""

import json
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

from tests.pipelines.world import World, selected_rows


def _corpus(world: World, folder: pathlib.Path) -> pathlib.Path:
    """Writes a shard of JSON Lines whose columns change after the first rows, and two of Parquet, one without a text."""
    texts = [row["text"] for row in pq.read_table(f"{world.corpus}/part-0.parquet").to_pylist()]
    folder.mkdir()
    lines = [{"text": text, "x": 1, "y": 1, "raw": "<p>"} for text in (texts * 6)[:1010]]
    lines[-1] |= {"x": "s", "y": 0.5, "late": [True]}
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    pq.write_table(
        pa.table({"text": texts[:3], "y": [7] * 3, "beam_quad": ["old"] * 3}), folder / "b.parquet"
    )
    pq.write_table(pa.table({"text": pa.array([None, ""], pa.string())}), folder / "c.parquet")
    return folder


def test_columns_that_change_after_the_first_rows_reach_the_output(world, tmp_path, caplog):
    flags = {
        "input": _corpus(world, tmp_path / "in"),
        "artifacts": tmp_path / "artifacts",
        "policy": "random",
        "columns": "!raw",
        "near_duplicates": "keep",
    }
    everything = 10**9
    manifest = world.run(tmp_path / "one", budget_tokens=everything, **flags)
    assert manifest["counts"]["rejected"] == 2
    assert manifest["counts"]["selected"] == 1013
    assert {name: own for name, own in manifest["columns"].items() if name != "schema"} == {
        "json_text": {"x": "int64 and string"},
        "escaped": [],
        "renamed": {"beam_quad": "beam_quad_1"},
        "files_without_usable_rows": ["c.parquet"],
    }
    assert [message for message in caplog.messages if "column" in message] == [
        "column 'x' is carried as JSON text: int64 and string",
        "column 'beam_quad' of the input is carried as 'beam_quad_1'",
        "c.parquet: no row can be used; see rejected/ for the reasons, and check --text_column",
    ]
    rows = selected_rows(tmp_path / "one")
    carried = [
        {name: row[name] for name in row if name not in ("text", "beam_quad")} for row in rows
    ]
    nothing = {"x": None, "y": 7.0, "beam_quad_1": "old", "late": None}
    assert carried[0] == nothing | {"x": "1", "y": 1.0, "beam_quad_1": None}
    assert carried[1009] == nothing | {"x": '"s"', "y": 0.5, "late": [True], "beam_quad_1": None}
    assert carried[1012] == nothing
    # What is read already is not read again, and tells the same of its columns.
    again = world.run(tmp_path / "two", budget_tokens=everything, **flags)
    assert again["files"] == manifest["files"]
    assert again["columns"] == manifest["columns"]
