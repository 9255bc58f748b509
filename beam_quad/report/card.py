"""The card of a selection: Markdown with the Hub's metadata header, made only from the manifest."""

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jinja2
import yaml

from beam_quad.records import NOT_STATED, ROW_FORMATS
from beam_quad.report.formatting import percent
from beam_quad.report.judgements import LEAST_HALVES_AGREEMENT

# A card is read by people; the manifest has all rows.
_MOST_ROWS = 30
# The Hub's names of licences: SPDX identifiers in lower case.
_HUB_LICENCES = frozenset(
    (
        "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0",
        "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "gpl-2.0", "gpl-3.0", "lgpl-2.1",
        "lgpl-3.0", "agpl-3.0", "mpl-2.0", "isc", "unlicense", "odc-by", "odbl", "pddl", "gfdl", "epl-2.0", "wtfpl", "zlib",
    )
)  # fmt: skip


def card(manifest: Mapping[str, Any]) -> str:
    """Makes the card.

    Args:
      manifest: The manifest of a finished selection.

    Returns:
      The text of `README.md`; equal manifests give equal text.
    """
    header = yaml.safe_dump(_header(manifest), sort_keys=False, allow_unicode=True)
    # What a run has not done is absent from its manifest.
    absent = dict.fromkeys(("shares", "query", "contaminated", "paraphrases"))
    names = {
        "header": header,
        "has_rows": has_rows(manifest),
        "settings": _settings(manifest),
        "labels_of": {kind: labels_of(manifest, kind) for kind in ("language", "licence")},
        "poor_halves": _poor_halves(manifest),
        "citation": citation(manifest),
        "most_rows": _MOST_ROWS,
    }
    template = _environment().get_template("card.md.j2")
    return template.render(absent | dict(manifest) | names, manifest=manifest)


@functools.cache
def _environment() -> jinja2.Environment:
    # Not the environment of the pages: Markdown has other characters to escape, and shows texts whole.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("beam_quad.report"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "number": "{:,.0f}".format,
        "percent": percent,
        "code": _code,
        "places": _places,
        "escaped": _escaped,
    }
    return environment


def name_of(manifest: Mapping[str, Any]) -> str:
    """Names the selection by its configuration."""
    return f"selection-{manifest['configuration'][:12]}"


def labels_of(manifest: Mapping[str, Any], kind: str) -> dict[str, int]:
    """Counts the rows by value over all columns of a kind, `licence` or `language`, most frequent first."""
    found: dict[str, int] = {}
    for label in manifest["labels"]:
        if label["kind"] == kind:
            for value, number in label["rows"].items():
                found[value] = found.get(value, 0) + number
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def has_rows(manifest: Mapping[str, Any]) -> bool:
    """Whether the parts contain the rows of the input, in formats that libraries of data sets read."""
    return manifest["config"]["output_format"] in ROW_FORMATS


def selected_files(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lists the parts of the selection."""
    return [part for part in manifest["files"] if part["path"].startswith("selected/")]


def _header(manifest: Mapping[str, Any]) -> dict[str, Any]:
    parts, number = selected_files(manifest), manifest["counts"]["selected"]
    num_bytes = sum(part["bytes"] for part in parts)
    header: dict[str, Any] = {
        "pretty_name": f"{number:,} documents selected by beam_quad",
        "license": _licence(labels_of(manifest, "licence")),
        "size_categories": [_size_category(number)],
        "task_categories": ["text-generation"],
        "tags": ["beam_quad", "data selection", "croissant"],
    }
    if has_rows(manifest):
        path = f"selected/*.{manifest['config']['output_format']}"
        files = {"config_name": "default", "data_files": [{"split": "train", "path": path}]}
        split = {"name": "train", "num_bytes": num_bytes, "num_examples": number}
        header["configs"] = [files]
        header["dataset_info"] = {
            "config_name": "default",
            "splits": [split],
            "download_size": num_bytes,
            "dataset_size": num_bytes,
        }
    # The Hub knows languages by their ISO 639 codes alone.
    codes = [code for code in labels_of(manifest, "language") if re.fullmatch("[a-z]{2,3}", code)]
    return header | ({"language": codes[:_MOST_ROWS]} if codes else {})


def _licence(found: Mapping[str, int]) -> str | list[str]:
    """Returns the Hub's names of the rows' licences; `unknown` if there are none, `other` if the Hub lacks a name for one."""
    if not found.keys() - {NOT_STATED}:
        return "unknown"
    # "CC BY 4.0" and "cc-by-4.0" are one licence; a single unknown one makes the whole "other", for the Hub mixes no names.
    names = sorted({"-".join(value.lower().split()) for value in found})
    if not set(names) <= _HUB_LICENCES:
        return "other"
    return names[0] if len(names) == 1 else names


def _size_category(number: int) -> str:
    if number < 1000:
        return "n<1K"
    power = len(str(number)) - 1
    if power >= 12:
        return "n>1T"
    return f"{_power_of_ten(power)}<n<{_power_of_ten(power + 1)}"


def _power_of_ten(power: int) -> str:
    """Names a power of ten from 1,000 on as the Hub does: 1K, 10K, 100K, 1M, ..."""
    return f"{10 ** (power % 3)}{'KMBT'[power // 3 - 1]}"


def citation(manifest: Mapping[str, Any]) -> str:
    """Returns a BibTeX entry for the selection itself."""
    name = name_of(manifest)
    version = manifest["versions"]["beam_quad"]
    return (
        f"@misc{{{name},\n  title = {{{manifest['counts']['selected']:,} documents selected by beam_quad}},\n"
        f"  note = {{beam\\_quad {version}, configuration {manifest['configuration']}}}\n}}"
    )


def _settings(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    config, prints = manifest["config"], manifest["fingerprints"]
    budget = manifest["budget"]
    yield "budget", f"{budget['amount']:,} {budget['unit']}"
    for what, print_ in (("proxy_model", "proxy"), ("embedder", "embedder")):
        if prints.get(print_):
            revision = config.get(f"{print_}_revision")
            words = f"{config[what]}, revision {revision}" if revision else str(config[what])
            yield f"{print_}", _code(words)
            yield f"{print_}, its content", _code(prints[print_])
    for name in ("policy", "acceptance", "curvature", "layers", "normalize", "damping", "seed"):
        # Without a proxy the options of influence have values too, which nothing used.
        if name in config and (prints.get("proxy") or name in ("policy", "seed")):
            yield name, _code(config[name])
    yield "input", _places(config["input"])
    yield "input, its content", _code(manifest["input"]["snapshot"])
    if base := prints.get("base"):
        yield "goes on from, by its manifest's SHA-256", _code(base)


def _poor_halves(manifest: Mapping[str, Any]) -> list[tuple[str, float]]:
    halves = dict(manifest.get("halves", {}))
    halves |= {name: own["halves"] for name, own in manifest.get("targets", {}).items()}
    return [
        (name, agreement)
        for name, agreement in halves.items()
        if agreement is not None and agreement < LEAST_HALVES_AGREEMENT
    ]


def _places(patterns: list[str]) -> str:
    more = [f"{len(patterns) - _MOST_ROWS:,} more"] if len(patterns) > _MOST_ROWS else []
    return ", ".join([*map(_code, patterns[:_MOST_ROWS]), *more])


def _code(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else " ".join(str(value).split())
    # A backtick would end the code span, and a bar the table cell.
    return f"`{text.replace('`', chr(39))}`".replace("|", "\\|")


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_<>\[\]|])", r"\\\1", " ".join(text.split())).rstrip(".")
