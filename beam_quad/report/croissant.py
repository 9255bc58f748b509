"""Croissant metadata of a selection, made only from the manifest.

References:
  MLCommons, Croissant Format Specification 1.1, 2026: http://mlcommons.org/croissant/1.1
  W3C, PROV-O: The PROV Ontology, 2013: https://www.w3.org/TR/prov-o/
"""

import re
from collections.abc import Mapping
from typing import Any

from beam_quad.report.card import citation, has_rows, labels_of, name_of, selected_files

CONFORMS_TO = "http://mlcommons.org/croissant/1.1"
# Terms that the specification's first appendix names as its own vocabulary does.
_TERMS = (
    "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileObject", "fileProperty",
    "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet",
    "references", "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform",
)  # fmt: skip
# The context of that appendix, with the vocabulary of provenance.
_CONTEXT: dict[str, Any] = {
    **{name: f"cr:{name}" for name in _TERMS},
    "@language": "en",
    "@vocab": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}
_ENCODINGS = {"parquet": "application/x-parquet", "jsonl": "application/jsonlines"}
# By the Arrow name up to a bracket; lists, structs and integers apart, all else is text.
_DATA_TYPES = {
    "halffloat": "cr:Float16",
    "float": "cr:Float32",
    "double": "cr:Float64",
    "bool": "sc:Boolean",
    "date32": "sc:Date",
    "timestamp": "sc:DateTime",
}
_FILES = "parts"
_RECORDS = "documents"


def croissant(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Makes the metadata.

    Fields that only a publisher knows are left out: `url`, `creator` and `datePublished`, and `license` if no column states one.

    Args:
      manifest: The manifest of a finished selection.

    Returns:
      JSON-LD; equal manifests give equal output.
    """
    counts, tokens = manifest["counts"], manifest["tokens"]
    num_bases = len(manifest.get("refresh", {}).get("bases", ()))
    found: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": name_of(manifest),
        "conformsTo": CONFORMS_TO,
        "description": (
            f"{counts['selected']:,} documents with {tokens['selected']:,} tokens, chosen from {counts['read']:,} documents with "
            f"{tokens['read']:,} tokens by beam_quad ({manifest['method']}) to train a language model on."
        ),
        "citeAs": citation(manifest),
        # Each refresh is a new major version, because it may remove rows.
        "version": f"{1 + num_bases}.0.0",
        "isLiveDataset": False,
        **_provenance(manifest),
        "distribution": [*map(_file, selected_files(manifest))],
    }
    if has_rows(manifest):
        found["distribution"].append(_file_set(manifest))
        found["recordSet"] = [_record_set(manifest)]
    # The field links to spdx.org, which has no page for other words.
    if licences := [name for name in labels_of(manifest, "licence") if _is_spdx(name)]:
        found["license"] = [f"https://spdx.org/licenses/{name}" for name in licences]
    if languages := [name for name in labels_of(manifest, "language") if _is_code(name)]:
        found["inLanguage"] = languages
    return found


def _provenance(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Describes the sources of the selection and the software that made it."""
    config, prints = manifest["config"], manifest["fingerprints"]
    sources = [_entity("input", manifest["input"]["snapshot"], config["input"])]
    if base := prints.get("base"):
        sources.append(_entity("base", base, [config["base"]]))
    used = [
        _entity(f"query set {name}", print_, config["query"].get(name, []))
        for name, print_ in prints["query"].items()
    ]
    for what, name in (("proxy", "proxy_model"), ("embedder", "embedder")):
        if prints.get(what):
            used.append(_entity(f"{what} model", prints[what], [config[name]]))
    versions = manifest["versions"]
    return {
        "prov:wasDerivedFrom": sources,
        "prov:wasGeneratedBy": {
            "@type": "prov:Activity",
            "prov:label": f"{manifest['method']}; configuration {manifest['configuration']}",
            "prov:used": used,
            "prov:wasAssociatedWith": {
                "@type": "prov:SoftwareAgent",
                "prov:label": f"beam_quad {versions['beam_quad']}",
            },
        },
    }


def _entity(what: str, content: str, places: list[str]) -> dict[str, Any]:
    # A URN has no spaces, slashes or brackets, which names of models and of files have.
    content = re.sub(r"[^A-Za-z0-9._:@-]", "_", content)
    return {
        "@type": "prov:Entity",
        "@id": f"urn:beam_quad:{what.replace(' ', '_')}:{content}",
        "prov:label": what,
        "prov:atLocation": places,
    }


def _file(part: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": part["path"],
        "name": part["path"],
        "contentUrl": part["path"],
        "contentSize": f"{part['bytes']} B",
        "encodingFormat": _encoding(part["path"]),
        "sha256": part["sha256"],
    }


def _file_set(manifest: Mapping[str, Any]) -> dict[str, Any]:
    output_format = manifest["config"]["output_format"]
    return {
        "@type": "cr:FileSet",
        "@id": _FILES,
        "name": _FILES,
        "includes": f"selected/*.{output_format}",
        "encodingFormat": _encoding(f"part.{output_format}"),
    }


def _record_set(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": _RECORDS,
        "name": _RECORDS,
        "description": "The selected documents, each with the reason why.",
        "field": [_column(column) for column in manifest["columns"]["schema"]],
    }


def _encoding(path: str) -> str:
    # `part-0.jsonl.zst` is JSON Lines, whatever it is compressed with.
    ending = path.rpartition("/")[2].partition(".")[2]
    return _ENCODINGS.get(ending.partition(".")[0], "application/octet-stream")


def _column(column: Mapping[str, Any]) -> dict[str, Any]:
    source = {"fileSet": {"@id": _FILES}, "extract": {"column": column["name"]}}
    return _field(_RECORDS, column, source)


def _field(parent: str, column: Mapping[str, Any], source: dict[str, Any]) -> dict[str, Any]:
    path, of = f"{parent}/{column['name']}", column["type"]
    field: dict[str, Any] = {"@type": "cr:Field", "@id": path, "name": column["name"]}
    shape = []
    while isinstance(of, dict) and "list" in of:
        shape.append("-1")
        of = of["list"]
    if shape:
        field |= {"isArray": True, "arrayShape": ",".join(shape)}
    field["source"] = source
    if isinstance(of, str):
        field["dataType"] = _data_type(of)
        return field
    # A field of a struct is found by one JSON path after the other, from the column inwards.
    transforms = source.get("transform", [])
    field["subField"] = [
        _field(path, inner, {**source, "transform": [*transforms, {"jsonPath": inner["name"]}]})
        for inner in of["struct"]
    ]
    return field


def _data_type(arrow: str) -> str:
    if found := re.fullmatch("(u?)int(8|16|32|64)", arrow):
        return f"cr:{'UInt' if found[1] else 'Int'}{found[2]}"
    # The name of a timestamp goes on with its unit and time zone.
    return _DATA_TYPES.get(arrow.partition("[")[0], "sc:Text")


def _is_spdx(name: str) -> bool:
    """Tells whether a licence's name looks like an SPDX identifier."""
    return re.fullmatch(r"[A-Za-z0-9]+([.+-][A-Za-z0-9.+]+)+|MIT|ISC|Zlib", name) is not None


def _is_code(name: str) -> bool:
    return re.fullmatch("[a-z]{2,3}(-[A-Za-z]+)?", name) is not None
