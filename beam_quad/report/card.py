"""The card of a selection: Markdown with the Hub's metadata header, made only from the manifest."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml

from beam_quad.records import NOT_STATED, ROW_FORMATS
from beam_quad.report.formatting import percent
from beam_quad.report.judgements import LEAST_HALVES_AGREEMENT

_MOST_ROWS = 30
_QUAD = """\
@inproceedings{zhang2025quad,
  title = {Harnessing Diversity for Important Data Selection in Pretraining Large Language Models},
  author = {Zhang, Chi and others},
  booktitle = {International Conference on Learning Representations},
  year = {2025},
  eprint = {2409.16986}
}"""
_DISTILLATION = """\
@inproceedings{nikdan2025influence,
  title = {Efficient Data Selection at Scale via Influence Distillation},
  author = {Nikdan, Mahdi and Cohen-Addad, Vincent and Alistarh, Dan and Mirrokni, Vahab},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2025},
  eprint = {2505.19051}
}"""
# The Hub's names of licences: SPDX identifiers in lower case.
_HUB_LICENCES = frozenset(
    (
        "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0",
        "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "gpl-2.0", "gpl-3.0", "lgpl-2.1",
        "lgpl-3.0", "agpl-3.0", "mpl-2.0", "isc", "unlicense", "odc-by", "odbl", "pddl", "gfdl", "epl-2.0", "wtfpl", "zlib",
    )
)  # fmt: skip
_SIZES = ((10**3, "1K"), (10**4, "10K"), (10**5, "100K"), (10**6, "1M"), (10**7, "10M"),
          (10**8, "100M"), (10**9, "1B"), (10**10, "10B"), (10**11, "100B"), (10**12, "1T"))  # fmt: skip


def card(manifest: Mapping[str, Any]) -> str:
    """Makes the card.

    Args:
      manifest: The manifest of a finished selection.

    Returns:
      The text of `README.md`; equal manifests give equal text.
    """
    header = yaml.safe_dump(_header(manifest), sort_keys=False, allow_unicode=True)
    return f"---\n{header}---\n\n" + "\n".join(_body(manifest)) + "\n"


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
    codes = [code for code in labels_of(manifest, "language") if re.fullmatch("[a-z]{2,3}", code)]
    return header | ({"language": codes[:_MOST_ROWS]} if codes else {})


def _licence(found: Mapping[str, int]) -> str | list[str]:
    """Returns the Hub's names of the rows' licences; `unknown` if there are none, `other` if the Hub lacks a name for one."""
    if not found.keys() - {NOT_STATED}:
        return "unknown"
    names = sorted({"-".join(value.lower().split()) for value in found})
    if not set(names) <= _HUB_LICENCES:
        return "other"
    return names[0] if len(names) == 1 else names


def _size_category(number: int) -> str:
    below = "n<1K"
    for (size, name), following in zip(_SIZES, (*_SIZES[1:], None), strict=True):
        if number >= size:
            below = f"{name}<n<{following[1]}" if following else f"n>{name}"
    return below


def _body(manifest: Mapping[str, Any]) -> Iterator[str]:
    counts, tokens, config = manifest["counts"], manifest["tokens"], manifest["config"]
    yield f"# {counts['selected']:,} documents selected by beam_quad\n"
    yield (
        f"{counts['selected']:,} documents with {tokens['selected']:,} tokens, chosen from {counts['read']:,} documents with "
        f"{tokens['read']:,} tokens to train a language model on."
    )
    if has_rows(manifest):
        yield "The rows are the input's; the column `beam_quad` says why each was chosen."
        yield "\n```python\nfrom datasets import load_dataset\n"
        yield 'selection = load_dataset("path/of/this/folder", split="train")\n```'
    else:
        yield f"The parts are files of the format {_code(config['output_format'])}."
    yield "\n## Method\n"
    yield f"The policy is {manifest['method']}.\n"
    yield from _table(("setting", "value"), _settings(manifest))
    yield "\n`manifest.json` has every flag, all versions, and the SHA-256 of every file. On the same input and models"
    command = "distill" if "num_landmarks" in config else "select"
    yield f"`beam-quad {command} --config manifest.json --output NEW` makes the same selection."
    if shares := manifest.get("shares"):
        yield "\n## Shares of the budget\n"
        yield from _shares(shares)
    yield "\n## Query sets\n"
    yield from _query(manifest)
    yield "\n## Sources\n"
    yield from _sources(manifest)
    for kind, title in (("language", "Languages"), ("licence", "Licences")):
        yield f"\n## {title}\n"
        yield from _labels(manifest, kind)
    yield "\n## What was left out\n"
    yield from _table(("why", "documents"), _left_out(manifest))
    yield "\n`rejected/` names every rejected row, with its reason."
    yield "\n## Known limits\n"
    yield from (f"- {limit}" for limit in _limits(manifest))
    yield "\n## Citation\n"
    yield f"```bibtex\n{_citations(manifest)}\n```"


def citation(manifest: Mapping[str, Any]) -> str:
    """Returns a BibTeX entry for the selection itself."""
    name = name_of(manifest)
    version = manifest["versions"]["beam_quad"]
    return (
        f"@misc{{{name},\n  title = {{{manifest['counts']['selected']:,} documents selected by beam_quad}},\n"
        f"  note = {{beam\\_quad {version}, configuration {manifest['configuration']}}}\n}}"
    )


def _citations(manifest: Mapping[str, Any]) -> str:
    config = manifest["config"]
    papers = [_DISTILLATION] if "num_landmarks" in config else []
    if config.get("policy") == "quad":
        papers = [_QUAD]
    return "\n\n".join([citation(manifest), *papers])


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
        if name in config and (prints.get("proxy") or name in ("policy", "seed")):
            yield name, _code(config[name])
    yield "input", _places(config["input"])
    yield "input, its content", _code(manifest["input"]["snapshot"])
    if base := prints.get("base"):
        yield "goes on from, by its manifest's SHA-256", _code(base)


def _shares(shares: Mapping[str, Any]) -> Iterator[str]:
    unit = shares["unit"]
    yield from _table(
        ("bound", f"{unit} asked for", f"{unit} selected", "of the budget"),
        (
            (
                _code(own["bound"]),
                f"{own['relation']} {own['asked']:,.0f}",
                f"{own['selected']:,}",
                percent(own["share"]),
            )
            for own in shares["bounds"][:_MOST_ROWS]
        ),
    )
    if (number := len(shares["bounds"]) - _MOST_ROWS) > 0:
        yield f"\n`manifest.json` has {number:,} more."


def _query(manifest: Mapping[str, Any]) -> Iterator[str]:
    groups = manifest.get("query", {})
    if not groups:
        yield "None: the method looks at no query set."
        return
    config = manifest["config"]
    yield from _table(
        ("group", "files", "weight", "texts used", "not used"),
        (
            (
                _code(name),
                _places(config["query"].get(name, [])),
                f"{config['query_weights'].get(name, 1):g}",
                f"{group['used']:,}",
                f"{sum(group['unused'].values()):,}",
            )
            for name, group in groups.items()
        ),
    )


def _sources(manifest: Mapping[str, Any]) -> Iterator[str]:
    sources = sorted(
        manifest["sources"].items(), key=lambda item: (-item[1]["selected"]["tokens"], item[0])
    )
    whole = manifest["tokens"]["selected"]
    rows = [
        (
            _code(name),
            f"{own['documents']:,}",
            f"{own['selected']['documents']:,}",
            f"{own['selected']['tokens']:,}",
            percent(own["selected"]["tokens"] / whole) if whole else "",
        )
        for name, own in sources
    ]
    yield "By the folders, or the names, of the input's files.\n"
    columns = ("source", "usable documents", "selected", "tokens", "of the selected tokens")
    yield from _table(columns, rows[:_MOST_ROWS])
    if len(rows) > _MOST_ROWS:
        yield f"\n`manifest.json` has {len(rows) - _MOST_ROWS:,} more."


def _labels(manifest: Mapping[str, Any], kind: str) -> Iterator[str]:
    found = labels_of(manifest, kind)
    columns = [label["column"] for label in manifest["labels"] if label["kind"] == kind]
    if not has_rows(manifest):
        yield f"Not counted: {_code(manifest['config']['output_format'])} is no format of rows."
        return
    if not columns:
        yield f"No column of the input names the {kind} of a document."
        return
    yield f"As the rows say in {', '.join(map(_code, columns))}.\n"
    rows = [(_code(value), f"{number:,}") for value, number in found.items()]
    yield from _table((kind, "documents"), rows[:_MOST_ROWS])
    if len(rows) > _MOST_ROWS:
        yield f"\n`manifest.json` has {len(rows) - _MOST_ROWS:,} more."


def _left_out(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "not selected", f"{manifest['counts']['not_selected']:,}"
    if number := manifest["near_duplicates"]["documents"]:
        yield "of these, nearly the same as one that ranks higher", f"{number:,}"
    if number := manifest["passed_over"]["documents"]:
        yield "of these, too long for the budget", f"{number:,}"
    for reason, number in sorted(manifest["rejected"].items()):
        yield f"rejected: {reason.replace('_', ' ')}", f"{number:,}"
    if number := manifest["counts"]["bad_files"]:
        yield "files that could not be read", f"{number:,}"


def _limits(manifest: Mapping[str, Any]) -> Iterator[str]:
    config = manifest["config"]
    yield "The selection is no sample of its input: it prefers some kinds of text, by design."
    if manifest.get("query"):
        yield "What is worth selecting is judged by the query sets; it may be worth little for other purposes."
    if manifest["fingerprints"].get("proxy") and manifest["counts"]["scored"]:
        yield "Influence is that on the proxy model; another model may learn otherwise from the same texts."
    halves = dict(manifest.get("halves", {}))
    halves |= {name: own["halves"] for name, own in manifest.get("targets", {}).items()}
    for name, agreement in halves.items():
        if agreement is not None and agreement < LEAST_HALVES_AGREEMENT:
            yield (
                f"Halves of the query set {_code(name)} agree poorly about the scores (rank correlation {agreement:.2f}): it has few "
                "texts, or unlike ones."
            )
    if leaks := manifest.get("contaminated"):
        short = leaks["not_looked_for"]
        yield (
            f"Documents that hold a text of the query sets or of {_code('--decontaminate')} were looked for by n-grams of words: "
            f"{leaks['rows']:,} were rejected. {_paraphrases(manifest)} are not found"
            + (f", nor copies of {short:,} texts that are too short." if short else ".")
        )
    else:
        yield "Documents that hold texts of benchmarks were not looked for."
    if config.get("near_duplicates") == "keep":
        yield "Documents that are nearly the same were not looked for."
    if manifest["shortfall"]:
        yield f"{_escaped(manifest['shortfall'])}."
    for name, why in manifest["columns"]["json_text"].items():
        yield f"The column {_code(name)} is carried as JSON text: {_escaped(why)}."
    yield "Personal data and offensive texts were not looked for."


def _paraphrases(manifest: Mapping[str, Any]) -> str:
    found = manifest.get("paraphrases")
    if found is None:
        return "Paraphrases and translations"
    return f"{found['rows']:,} selected documents were flagged as possible paraphrases, but not left out; translations"


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    columns = list(columns)
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _places(patterns: list[str]) -> str:
    more = [f"{len(patterns) - _MOST_ROWS:,} more"] if len(patterns) > _MOST_ROWS else []
    return ", ".join([*map(_code, patterns[:_MOST_ROWS]), *more])


def _code(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else " ".join(str(value).split())
    # A backtick would end the code span, and a bar the table cell.
    return f"`{text.replace('`', chr(39))}`".replace("|", "\\|")


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_<>\[\]|])", r"\\\1", " ".join(text.split())).rstrip(".")
