"""What of a model comes from its files: the tokenizer, and a fingerprint of the content."""

import hashlib
import pathlib
from typing import Any

import transformers

from beam_quad import errors

# What changes a model's numbers or its tokens; a README or a training log does not.
_CONTENT_SUFFIXES = (".json", ".txt", ".model", ".safetensors")
_READ_BYTES = 1 << 22


def load_tokenizer(path: str, revision: str | None = None) -> Any:
    """Loads a fast tokenizer.

    Args:
      path: A local folder, or a hub id.
      revision: Branch, tag or commit of a hub id.

    Returns:
      A `transformers.PreTrainedTokenizerFast`.

    Raises:
      UsageError: If the path does not exist, holds no tokenizer, or only a slow one.
    """
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            path, revision=revision, use_fast=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise errors.UsageError(
            f"no tokenizer in {path!r} ({first_line(error)}); "
            "pass a local folder with tokenizer.json, or a hub id"
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise errors.UsageError(
            f"{path!r} has only a slow tokenizer; save a fast one (tokenizer.json) next to the model"
        )
    return tokenizer


def content_fingerprint(path: str, revision: str | None = None) -> str:
    """Names the content of a model, so that an artifact made with another content is never reused.

    Args:
      path: A local folder, or a hub id.
      revision: Branch, tag or commit of a hub id.

    Returns:
      "sha256:..." over names and bytes of the folder's configuration, tokenizer and weights, or
      "hub:<id>@<commit>" with the commit that the revision resolves to.

    Raises:
      UsageError: If neither a folder nor a hub id of that name can be read.
    """
    folder = pathlib.Path(path)
    if folder.is_dir():
        return f"sha256:{_folder_digest(folder)}"
    return f"hub:{path}@{_hub_commit(path, revision)}"


def _folder_digest(folder: pathlib.Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if not file.is_file() or file.suffix not in _CONTENT_SUFFIXES:
            continue
        # The size parts one file's bytes from the next one's name.
        digest.update(f"{file.name}\x1f{file.stat().st_size}\x1f".encode())
        with file.open("rb") as stream:
            while piece := stream.read(_READ_BYTES):
                digest.update(piece)
    return digest.hexdigest()


def _hub_commit(path: str, revision: str | None) -> str:
    try:
        config = transformers.AutoConfig.from_pretrained(
            path, revision=revision, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise errors.UsageError(
            f"{path!r} is neither a folder here nor a model that the hub gives ({first_line(error)})"
        ) from error
    commit = getattr(config, "_commit_hash", None)
    if commit is None:
        raise errors.UsageError(
            f"the hub names no commit for {path!r}; pass a local folder instead"
        )
    return str(commit)


def first_line(error: Exception) -> str:
    """Cuts an error of another library to its first line, for messages of one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
