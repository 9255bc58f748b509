"""A selection is a data set: its card and its metadata follow from the manifest, and libraries load it."""

import collections
import hashlib
import json
import pathlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from beam_quad.report.card import card
from beam_quad.report.croissant import croissant
from beam_quad.stages import run_in_process
from pipelines import chain, options, refresh
from pipelines.inputs import look
from tests.pipelines.world import manifest_of

LICENCES = ("MIT", "CC-BY-4.0", None)
LANGUAGES = ("en", "de")
FORMATS = ["parquet", "jsonl", "jsonl.zst"]


def document(i: int) -> dict[str, Any]:
    meta = {"license": LICENCES[i % 3], "lang": LANGUAGES[i % 2]}
    return {"text": f"text {i}", "n": 5, "tags": ["a", f"b{i}"], "meta": meta}


def write(folder: pathlib.Path, name: str, numbers: range) -> None:
    path = folder / "in" / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([document(i) for i in numbers]), path)


def select(folder: pathlib.Path, output: str, budget: int, *flags: str) -> pathlib.Path:
    given = [
        f"--input={folder}/in", f"--output={folder / output}", "--policy=random", "--tokens_column=n", f"--budget_tokens={budget}",
        "--near_duplicates=keep",
    ]  # fmt: skip
    parsed, _ = options.parse([*given, *flags])
    parsed = refresh.resolved(parsed)
    built = chain.build(parsed, look(parsed))
    built.write_plans()
    run_in_process(built.stages)
    return folder / output


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """A corpus of two sources and 60 documents."""
    folder = tmp_path_factory.mktemp("card")
    write(folder, "books/part-0", range(40))
    write(folder, "web/part-0", range(40, 60))
    return folder


@pytest.fixture(scope="module")
def outputs(folder) -> dict[str, pathlib.Path]:
    """A selection of 20 documents in each format."""
    return {name: select(folder, name, 100, f"--output_format={name}") for name in FORMATS}


def header(output: pathlib.Path) -> dict[str, Any]:
    return yaml.safe_load((output / "README.md").read_text().split("---\n")[1])


def ids(rows: Any) -> list[str]:
    return [row["beam_quad"]["example_id"] for row in rows]


def rows_of(output: pathlib.Path) -> list[dict[str, Any]]:
    return [
        row
        for path in sorted(output.glob("selected/*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]


@pytest.mark.parametrize("name", FORMATS)
def test_a_selection_is_loaded_by_datasets(outputs, name, tmp_path, lacking):
    try:
        import datasets
    except ImportError:
        lacking("datasets is not installed")
    loaded = datasets.load_dataset(str(outputs[name]), split="train", cache_dir=str(tmp_path))
    assert ids(loaded) == ids(rows_of(outputs["parquet"]))
    assert len(loaded) == header(outputs[name])["dataset_info"]["splits"][0]["num_examples"] == 20
    assert loaded["text"] == [row["text"] for row in rows_of(outputs["parquet"])]


@pytest.mark.parametrize("name", FORMATS[:2])
def test_mlcroissant_finds_no_error_and_reads_the_documents(outputs, name, lacking):
    try:
        import mlcroissant
    except ImportError:
        lacking("mlcroissant is not installed")
    found = mlcroissant.Dataset(str(outputs[name] / "croissant.json"))
    issues = found.metadata.ctx.issues
    # Only a publisher knows the day.
    assert not issues.errors
    assert all("datePublished" in str(issue) for issue in issues.warnings)
    assert found.metadata.ctx.is_v1_1()
    read = [
        row["documents/beam_quad"]["documents/beam_quad/example_id"].decode()
        for row in found.records("documents")
    ]
    assert read == ids(rows_of(outputs["parquet"]))


@pytest.mark.parametrize("name", FORMATS)
def test_card_and_metadata_are_made_from_the_manifest_alone(outputs, name):
    manifest = manifest_of(outputs[name])
    assert (outputs[name] / "README.md").read_text() == card(manifest)
    assert json.loads((outputs[name] / "croissant.json").read_text()) == croissant(manifest)


@pytest.mark.parametrize("name", ["ids", "mds"])
def test_of_a_format_that_holds_no_rows_no_licence_is_said_to_be_missing(folder, name):
    text = (select(folder, name, 100, f"--output_format={name}") / "README.md").read_text()
    assert text.count(f"Not counted: `{name}` is no format of rows.") == 2
    assert "No column of the input names" not in text


def test_the_metadata_name_every_part_with_the_hash_of_its_bytes(outputs):
    found = croissant(manifest_of(outputs["parquet"]))["distribution"]
    parts = {part["@id"]: part["sha256"] for part in found if part["@type"] == "cr:FileObject"}
    paths = outputs["parquet"].glob("selected/*")
    assert parts == {
        f"selected/{p.name}": hashlib.sha256(p.read_bytes()).hexdigest() for p in paths
    }


def test_licences_and_languages_are_those_of_the_selected_rows_in_every_format(outputs):
    rows = rows_of(outputs["parquet"])
    licences = collections.Counter(row["meta"]["license"] or "not stated" for row in rows)
    languages = collections.Counter(row["meta"]["lang"] for row in rows)
    expected = [
        {"column": "meta.lang", "kind": "language", "rows": languages},
        {"column": "meta.license", "kind": "licence", "rows": licences},
    ]
    assert all(manifest_of(output)["labels"] == expected for output in outputs.values())
    text = (outputs["parquet"] / "README.md").read_text()
    assert all(
        f"| `{value}` | {number} |" in text for value, number in (licences + languages).items()
    )
    # Not every row states one.
    assert header(outputs["parquet"])["license"] == "other"
    assert set(header(outputs["parquet"])["language"]) == set(languages)


def test_sources_are_counted_by_folder(outputs):
    rows = collections.Counter(name.split("/")[0] for name in ids(rows_of(outputs["parquet"])))
    text = (outputs["parquet"] / "README.md").read_text()
    for name, usable in (("books", 40), ("web", 20)):
        share = f"{100 * rows[name] / 20:.1f} %"
        assert f"| `{name}` | {usable} | {rows[name]} | {5 * rows[name]} | {share} |" in text


def test_a_refresh_counts_the_labels_of_what_it_carries_over(tmp_path):
    write(tmp_path, "web/part-0", range(20))
    base = select(tmp_path, "base", 50)
    write(tmp_path, "web/part-1", range(20, 40))
    output = select(tmp_path, "new", 100, f"--base={base}")
    languages = collections.Counter(row["meta"]["lang"] for row in rows_of(output))
    assert (
        languages.total()
        == manifest_of(output)["counts"]["selected"]
        > manifest_of(base)["counts"]["selected"]
    )
    assert manifest_of(output)["labels"][0]["rows"] == languages
    found = croissant(manifest_of(output))
    assert found["version"] == "2.0.0"
    assert [entity["prov:label"] for entity in found["prov:wasDerivedFrom"]] == ["input", "base"]


@pytest.fixture
def manifest(outputs) -> dict[str, Any]:
    return manifest_of(outputs["parquet"])


def with_labels(manifest: dict[str, Any], kind: str, *values: str) -> dict[str, Any]:
    label = {"column": kind, "kind": kind, "rows": dict.fromkeys(values, 1)}
    return manifest | {"labels": [label] if values else []}


@pytest.mark.parametrize(
    ("values", "licence"),
    [
        ((), "unknown"), (("not stated",), "unknown"), (("MIT",), "mit"), (("MIT", "cc by 4.0"), ["cc-by-4.0", "mit"]),
        (("MIT", "my own"), "other"),
    ],
)  # fmt: skip
def test_the_hub_s_licence_is_that_of_the_rows(manifest, values, licence):
    found = card(with_labels(manifest, "licence", *values))
    assert yaml.safe_load(found.split("---\n")[1])["license"] == licence


@pytest.mark.parametrize(
    ("number", "category"),
    [(999, "n<1K"), (1000, "1K<n<10K"), (9_999_999, "1M<n<10M"), (10**12, "n>1T")],
)
def test_the_size_is_a_category_of_the_hub(manifest, number, category):
    found = card(manifest | {"counts": manifest["counts"] | {"selected": number}})
    assert yaml.safe_load(found.split("---\n")[1])["size_categories"] == [category]


SHARE = {
    "bound": "kind=law >= 0.3",
    "relation": ">=",
    "asked": 300.0,
    "selected": 1310,
    "share": 0.31,
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"halves": {"law": 0.21}}, "`law` agree poorly about the scores (rank correlation 0.21)"),
        ({"shortfall": "5 of 9 tokens are missing"}, "- 5 of 9 tokens are missing."),
        ({"contaminated": {"texts": 9, "not_looked_for": 2, "rows": 7}}, "7 were rejected"),
        ({"near_duplicates": {"documents": 3, "tokens": 9}}, "nearly the same as one that ranks higher | 3 |"),
        ({"rejected": {"not_utf8": 4}}, "| rejected: not utf8 | 4 |"),
        ({"shares": {"unit": "tokens", "bounds": [SHARE]}}, "| `kind=law >= 0.3` | >= 300 | 1,310 | 31.0 % |"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_selection_is_on_its_card(manifest, changes, words):
    assert words not in card(manifest)
    assert words in card(manifest | changes)


def test_what_holds_no_rows_is_not_announced_as_a_data_set_of_rows(manifest):
    changed = manifest | {"config": manifest["config"] | {"output_format": "bin"}}
    assert "configs:" in card(manifest)
    assert "configs:" not in card(changed)
    assert "load_dataset" not in card(changed)
    assert "recordSet" not in croissant(changed)
    assert len(croissant(changed)["distribution"]) == len(croissant(manifest)["distribution"]) - 1


def test_names_cannot_break_the_card(manifest):
    text = card(with_labels(manifest, "licence", "a|b`c\nd <i>"))
    assert "\n| `a\\|b'c d <i>` | 1 |\n" in text


def test_metadata_name_the_models_and_query_sets_by_their_content(manifest):
    changes = {
        "config": manifest["config"] | {"query": {"law": ["/q"]}, "proxy_model": "org/m"},
        "fingerprints": {"query": {"law": "abc"}, "proxy": "hub:org/m@1f", "embedder": ""},
    }
    used = croissant(manifest | changes)["prov:wasGeneratedBy"]["prov:used"]
    assert [(each["@id"], each["prov:atLocation"]) for each in used] == [
        ("urn:beam_quad:query_set_law:abc", ["/q"]),
        ("urn:beam_quad:proxy_model:hub:org_m@1f", ["org/m"]),
    ]
