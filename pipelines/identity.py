"""The identity of a run: the options behind its result, and the content of its inputs."""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from beam_quad import identity, seeding
from beam_quad.artifacts import files
from beam_quad.artifacts.patterns import folded
from beam_quad.stages.read.corpus import Corpus
from pipelines.columns import query_columns
from pipelines.inputs import Inputs
from pipelines.run_options import HOW_STARTED, RunOptions
from pipelines.shares import absolute_tables

_WHERE_NOT_WHAT = ("output", "artifacts", "threads", *HOW_STARTED)
# Options for locations. Contents have fingerprints instead, so a run can resume if its input or model has moved.
_PLACES = (
    "input", "input_root", "query", "proxy_model", "proxy_revision", "embedder", "embedder_revision", "optimizer_state",
    "exclude", "decontaminate", "share", "share_by", "output_tokenizer", "base",
)  # fmt: skip
_WORDS_OF = {
    "proxy": "--proxy_model holds another model",
    "embedder": "--embedder makes other vectors",
    "optimizer_state": "--optimizer_state holds other moments",
    "exclude": "--exclude lists other ids",
    "output_tokenizer": "--output_tokenizer makes other tokens",
    "shares": "--share or --share_by asks for other shares",
    "leaks": "--decontaminate, or the query set, holds other texts",
    "base": "--base is another selection",
}
_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Identity:
    """The identity of a run, equal for two commands with the same options on the same data.

    Attributes:
      configuration: Fingerprint of all of it.
      config: The options by name; paths are absolute.
      fingerprints: Content of the models and of the query set, by name.
      snapshot: Names and versions of the corpus's shards.
      selection: Digest of the stages that decide the selection, and of their versions; another version of beam_quad may
        select other rows. Empty for a run that selects none.
    """

    configuration: str
    config: dict[str, Any]
    fingerprints: dict[str, Any]
    snapshot: str
    selection: str = ""

    @classmethod
    def of(
        cls, config: dict[str, Any], fingerprints: dict[str, Any], snapshot: str, corpus_id: str
    ) -> "Identity":
        """Makes an identity; `corpus_id` identifies the corpus and how it is read."""
        what = {name: value for name, value in config.items() if name not in _PLACES}
        text = json.dumps([corpus_id, what, fingerprints], sort_keys=True)
        return cls(seeding.digest(text), config, fingerprints, snapshot)

    def to_bytes(self) -> bytes:
        """Serialises the identity as a JSON object, whose members but `selection` are also in the manifest."""
        found = {
            "configuration": self.configuration,
            "config": self.config,
            "fingerprints": self.fingerprints,
            "input": {"snapshot": self.snapshot},
            "selection": self.selection,
        }
        return json.dumps(found, indent=1, sort_keys=True).encode()

    def difference(self, found: Mapping[str, Any], most: int = _SHOWN) -> str:
        """Describes the differences of another run from this one.

        Args:
          found: The parsed output of `to_bytes`, or a manifest.
          most: Maximum number of differences described.
        """
        words = list(self._differences(found))
        more = [f"and {len(words) - most} more"] if len(words) > most else []
        return ", ".join([*words[:most], *more]) or "it was made by another version of beam_quad"

    def _differences(self, found: Mapping[str, Any]) -> Iterator[str]:
        before = found.get("config", {})
        for name, value in sorted(self.config.items()):
            if name not in _PLACES and name in before and before[name] != value:
                yield f"--{name} was {_shown(before[name])} and is {_shown(value)}"
        prints = found.get("fingerprints", {})
        for name, words in _WORDS_OF.items():
            if prints.get(name) != self.fingerprints.get(name):
                yield words
        if prints.get("query") != self.fingerprints["query"]:
            yield "--query holds other texts"
        if found.get("input", {}).get("snapshot") != self.snapshot:
            yield "--input holds other files, or files of other content"


def identity_of(
    options: RunOptions, inputs: Inputs, versions: Mapping[str, str], corpus: Corpus
) -> Identity:
    """Returns everything the result of a run depends on, regardless of the spelling of flags and the location of files.

    Args:
      options: The flags.
      inputs: The inputs found by `look`.
      versions: Versions of further files behind the result, by name.
      corpus: The corpus.
    """
    config = dataclasses.asdict(options)
    for name in _WHERE_NOT_WHAT:
        config.pop(name)
    columns = query_columns(options)
    config |= {
        "query_text_column": columns.text,
        # An absent entry would mean the corpus's columns.
        "query_prompt_column": columns.prompt or "",
        "query_messages_column": columns.messages or "",
    }
    config["device"] = identity.device_kind(options.device)
    if options.embedder != "hashing":
        config["embedder_dtype"] = getattr(inputs.embedder, "dtype", options.embedder_dtype)
    config["input"], config["input_root"] = inputs.corpus.patterns, inputs.corpus.root or None
    config["exclude"] = folded(inputs.excluded.paths) if inputs.excluded else []
    config["share_by"] = absolute_tables(options)
    config["decontaminate"] = inputs.leaks.patterns if inputs.leaks else []
    config["query"] = {name: plan.patterns for name, plan in inputs.query.items()}
    for name in ("proxy_model", "embedder", "optimizer_state", "output_tokenizer"):
        if config.get(name):
            config[name] = _place(config[name])
    fingerprints = {
        "proxy": inputs.proxy_fingerprint,
        "embedder": inputs.embedder_fingerprint,
        "query": {name: plan.snapshot for name, plan in inputs.query.items()},
        **versions,
    }
    if inputs.base is not None:
        fingerprints["base"] = inputs.base.selection.manifest
    corpus_id = identity.digest(corpus)
    return Identity.of(config, fingerprints, inputs.corpus.snapshot, corpus_id)


def _place(path: str) -> str:
    """Normalises a local path; a hub id or a built-in name stays unchanged."""
    return files.absolute(path) if os.path.exists(path) else path


def _shown(value: Any) -> str:
    return "not given" if value is None else str(value)
