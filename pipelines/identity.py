"""The identity of a run: the options behind its result, and the content of its inputs."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from beam_quad import seeding

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


def _shown(value: Any) -> str:
    return "not given" if value is None else str(value)
