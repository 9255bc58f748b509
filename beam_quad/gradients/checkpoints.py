"""The files of a model: their location, the tokenizer, checks of the weights, and a fingerprint."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import huggingface_hub
import safetensors
import tokenizers
import torch
import transformers

from beam_quad import errors

_log = logging.getLogger(__name__)

# Files that change a model's numbers or its tokens, unlike a README or a training log.
_CONTENT_SUFFIXES = (".json", ".txt", ".model", ".safetensors")
_READ_BYTES = 1 << 22
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
_WEIGHTS = "*.safetensors"
# Pickled weights, code, and second copies of the weights in another layout are not downloaded.
DOWNLOADED = ("*.json", "*.txt", "*.model", "*.jinja", _WEIGHTS)
_NOT_DOWNLOADED = ("consolidated*", "original/*", "onnx/*", "openvino/*")
_LFS_POINTER = b"version https://git-lfs"
# Buffers of older checkpoints that models now make themselves; training does not change them.
_MADE_BUFFER = re.compile(
    r"(^|\.)(inv_freq|masked_bias|position_ids|token_type_ids|cos_cached|sin_cached|(attn|attention)\.bias)$"
)
# Names of dtypes of at most 8 bits in safetensors.
_QUANTIZED = re.compile(r"F8_|F4|F6_")


@dataclasses.dataclass(frozen=True)
class Role:
    """The role of a model, in the words of an error message.

    Attributes:
      noun: Name of the role.
      flag: Flag of the model.
      revision_flag: Flag of the model's revision.
    """

    noun: str
    flag: str
    revision_flag: str


PROXY = Role("proxy model", "--proxy_model", "--proxy_revision")
OUTPUT_TOKENIZER = Role("output tokenizer", "--output_tokenizer", "--proxy_revision")
EMBEDDER = Role("embedder", "--embedder", "--embedder_revision")


_fetchers: list[Callable[[str], pathlib.Path]] = []


def fetch_with(fetch: Callable[[str], pathlib.Path]) -> None:
    """Has models whose name is a URL fetched by a function, which gives their folder here."""
    _fetchers.append(fetch)


def folder_of(name: str) -> pathlib.Path:
    """Where a model's files are here, if its name is that of a folder."""
    if "://" in name and _fetchers:
        return _fetchers[-1](name)
    return pathlib.Path(name).expanduser()


def is_folder(name: str, revision: str | None, role: Role = PROXY) -> bool:
    """Returns whether a model's name is a local folder; otherwise it is a hub id.

    Raises:
      UsageError: If it is neither, or if a folder comes with a revision.
    """
    if folder_of(name).is_dir():
        if revision is not None:
            raise errors.UsageError(
                f"{role.revision_flag} is for a hub id, and {role.flag}={name} is a folder; leave it out"
            )
        return True
    if not _HUB_ID.fullmatch(name):
        raise errors.UsageError(
            f"no {role.noun} {name!r}: not a folder here, and not a hub id either; check {role.flag}"
        )
    return False


def locate(
    name: str, revision: str | None = None, role: Role = PROXY, with_weights: bool = True
) -> pathlib.Path:
    """Finds a model's folder. A hub id is downloaded first, or taken from the hub's cache.

    Args:
      name: A local folder, or a hub id.
      revision: Branch, tag or commit of a hub id.
      role: Role of the model.
      with_weights: Whether to download weights in addition to configuration and tokenizer.

    Returns:
      The folder. The folder of a hub id is named by its commit.

    Raises:
      UsageError: If there is no such model, or if one of its files is a git-lfs pointer.
    """
    if is_folder(name, revision, role):
        folder = folder_of(name)
    else:
        try:
            folder = pathlib.Path(
                huggingface_hub.snapshot_download(
                    name,
                    revision=revision,
                    allow_patterns=list(DOWNLOADED),
                    ignore_patterns=[*_NOT_DOWNLOADED, *(() if with_weights else (_WEIGHTS,))],
                )
            )
        except (
            Exception
        ) as error:  # Errors of the hub, the network and the cache have no common base.
            at = f" at revision {revision}" if revision else ""
            raise errors.UsageError(
                f"no {role.noun} {name!r}{at}: not a folder here, and the hub does not give it "
                f"({type(error).__name__}: {first_line(error)}); check {role.flag}, the network and HF_TOKEN"
            ) from error
    for file in _content_files(folder.iterdir()):
        if with_weights or file.suffix != ".safetensors":
            refuse_pointer(file, role)
    return folder


def load_tokenizer(name: str, revision: str | None = None, role: Role = PROXY) -> Any:
    """Loads a fast tokenizer.

    Args:
      name: A local folder, or a hub id.
      revision: Branch, tag or commit of a hub id.
      role: Role of its model.

    Returns:
      A `transformers.PreTrainedTokenizerFast`.

    Raises:
      UsageError: If there is no such model, or if its tokenizer is missing, has no vocabulary, or is slow.
    """
    folder = locate(name, revision, role, with_weights=False)
    with refusing(f"no tokenizer of the {role.noun} in {name!r}", role, "with tokenizer.json"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(folder), use_fast=True, trust_remote_code=False
        )
    if not getattr(tokenizer, "is_fast", False):
        raise errors.UsageError(
            f"{name!r} has only a slow tokenizer; save a fast one (tokenizer.json) next to the model"
        )
    require_vocabulary(words(tokenizer), name, role)
    return tokenizer


def words(tokenizer: Any) -> set[str]:
    """Returns the tokens of a tokenizer of `transformers` that are neither special nor added; empty for None."""
    if tokenizer is None:
        return set()
    added = {*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens}
    return set(tokenizer.get_vocab()) - added


def require_vocabulary(vocabulary: set[str], name: str, role: Role = PROXY) -> None:
    """Refuses an empty tokenizer, which `transformers` makes up if the files are missing.

    Args:
      vocabulary: The tokenizer's `words`.
      name: The model.
      role: Role of the model.

    Raises:
      UsageError: If there are fewer than two words.
    """
    if len(vocabulary) < 2:
        raise errors.UsageError(
            f"no tokenizer of the {role.noun} in {name!r}: its files are missing, or its vocabulary is empty; "
            f"save the model's tokenizer next to it (save_pretrained), or pass another {role.flag}"
        )


def fit_tokenizer(tokenizer: Any, num_rows: int, name: str, role: Role = PROXY) -> None:
    """Refuses a tokenizer with tokens beyond the model's embedding.

    Special tokens beyond it are dropped and logged instead. `transformers` adds the special tokens of its class to a
    tokenizer trained without them, and text models share the tokenizer of a family with image models. Only a text that
    spells out such a token would contain it.

    Args:
      tokenizer: A fast tokenizer of `transformers`, changed in place.
      num_rows: Rows of the model's embedding.
      name: The model.
      role: Role of the model.

    Raises:
      UsageError: If an ordinary token, or a special token added to every text, has an id of `num_rows` or above.
    """
    beyond = [token for token, index in tokenizer.get_vocab().items() if index >= num_rows]
    if not beyond:
        return
    # `all_special_tokens` lists only tokens with a role, which tokens of images or code do not have.
    special = {
        *tokenizer.all_special_tokens,
        *(t.content for t in tokenizer.added_tokens_decoder.values() if t.special),
    }
    ordinary = {t: i for t, i in tokenizer.get_vocab().items() if t not in special}
    require_embedding(ordinary, num_rows, name, role)
    around = {tokenizer.convert_ids_to_tokens(i): i for i in tokenizer("")["input_ids"]}
    require_embedding(around, num_rows, name, role)
    # Neither library can remove a token, so the tokenizer is written, edited and read again.
    fields = json.loads(tokenizer.backend_tokenizer.to_str())
    fields["added_tokens"] = [t for t in fields["added_tokens"] if t["id"] < num_rows]
    tokenizer._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(fields))
    _log.warning(
        "%s=%s: the special tokens %s have no row in its embedding; where a text spells one out, it is read as text",
        role.flag, name, ", ".join(sorted(beyond)),
    )  # fmt: skip


def require_embedding(
    vocabulary: dict[str, int], num_rows: int, name: str, role: Role = PROXY
) -> None:
    """Refuses tokens beyond a model's embedding.

    Args:
      vocabulary: Tokens and their ids.
      num_rows: Rows of the model's embedding.
      name: The model.
      role: Role of the model.

    Raises:
      UsageError: If an id is `num_rows` or above.
    """
    beyond = sorted((i, token) for token, i in vocabulary.items() if i >= num_rows)
    if beyond:
        index, token = beyond[0]
        raise errors.UsageError(
            f"{role.flag}={name}: its embedding has {num_rows} rows, and its tokenizer has tokens beyond them "
            f"({len(beyond)}, such as {token!r} with id {index}); save the tokenizer that the model was trained with, "
            "or resize_token_embeddings"
        )


def load_config(folder: pathlib.Path, name: str, role: Role = PROXY) -> Any:
    """Reads a model's configuration.

    Args:
      folder: Folder of the model.
      name: The model, as the user wrote it.
      role: Role of the model.

    Returns:
      A `transformers.PreTrainedConfig` that asks for no particular attention kernels.

    Raises:
      UsageError: If `transformers` does not know the configuration, or if the weights are quantised.
    """
    with refusing(f"no {role.noun} in {name!r}", role, "with config.json and safetensors"):
        config = transformers.AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    quantization = getattr(config, "quantization_config", None)
    if quantization is not None:
        fields = quantization if isinstance(quantization, dict) else quantization.to_dict()
        method = str(getattr(fields.get("quant_method"), "value", fields.get("quant_method")))
        raise _quantized(name, role, f"({method})")
    # The publisher's attention kernels may not be installed here, and the default gives the same numbers.
    config._attn_implementation = None
    return config


def weight_files(folder: pathlib.Path, name: str, role: Role = PROXY) -> list[pathlib.Path]:
    """Lists the safetensors files of a checkpoint: the single file, or the shards in its index.

    Args:
      folder: Folder of the checkpoint.
      name: The model, as the user wrote it.
      role: Role of the model.

    Raises:
      UsageError: If there are no such files, if one is missing, or if the index is damaged.
    """
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    # `from_pretrained` prefers the single file to an index, so this does too.
    if whole.is_file():
        return [whole]
    if not index.is_file():
        found = ", ".join(sorted(path.name for path in folder.glob(_WEIGHTS))[:3])
        raise errors.UsageError(
            f"{name!r} has no model.safetensors{found and f', only {found}'}; only safetensors weights are loaded: "
            f"convert the model with save_pretrained, or pass another {role.flag}"
        )
    try:
        shards = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise errors.UsageError(
            f"{role.flag}={name}: {index.name} is damaged ({first_line(error)}); copy or download it again"
        ) from error
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise errors.UsageError(
            f"{role.flag}={name}: {len(missing)} of {len(shards)} files of weights that {index.name} names are "
            f"missing, such as {missing[0]}; copy or download them"
        )
    return [folder / shard for shard in shards]


def load_empty(empty: Any, folder: pathlib.Path, name: str, role: Role = PROXY) -> Any:
    """Loads the names and shapes of a checkpoint's weights and refuses a checkpoint that does not fit its model.

    Args:
      empty: A model of the checkpoint's class and configuration, on any device.
      folder: Folder of the safetensors; if a hub id has none yet, the hub is asked for names and shapes.
      name: The model, as the user wrote it.
      role: Role of the model.

    Returns:
      The model, on torch's `meta` device.

    Raises:
      UsageError: If a file is missing or damaged, or as for `require_loaded`.
    """
    weights = _headers(folder, name, role)
    with refusing(f"no {role.noun} in {name!r}", role, "with config.json and safetensors"):
        model, info = type(empty).from_pretrained(
            None,
            config=empty.config,
            dtype=empty.dtype,
            state_dict=weights,
            device_map="meta",
            # Faults do not raise here, so `require_loaded` can name all kinds of them in one message.
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    require_loaded(info, set(model.state_dict()), name, role)
    return model


def require_loaded(
    info: dict[str, Any], expected: Iterable[str], name: str, role: Role = PROXY
) -> None:
    """Refuses a checkpoint whose weights do not match the model's, as missing weights would be drawn at random.

    Weights that the model's class makes or ties itself do not count as missing. An encoder may lack the pooler, which
    its vectors do not pass through, and may have heads from its training. A proxy may not: with another head it is
    another model.

    Args:
      info: Result of `from_pretrained` with `output_loading_info` and `ignore_mismatched_sizes`.
      expected: Names of the model's weights.
      name: The model, as the user wrote it.
      role: Role of the model.

    Raises:
      UsageError: Names the first weights that are missing, of another shape, or unknown to the model.
    """
    missing, strange = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    strange = [key for key in strange if not _MADE_BUFFER.search(key)]
    if role is EMBEDDER:
        missing = [key for key in missing if "pooler" not in key.split(".")]
        layers = {_without_numbers(key) for key in expected}
        # Surplus layers are a fault; a head from the encoder's training is not.
        strange = [key for key in strange if missing or _without_numbers(key) in layers]
    mismatched = [
        f"{key} is {list(found)} where the model has {list(wanted)}"
        for key, found, wanted in sorted(info["mismatched_keys"])
    ]
    faults = [
        f"{what}: {len(keys)}, such as {', '.join(keys[:2])}"
        for what, keys in (
            (f"missing{_prefix_hint(missing, strange)}", missing),
            ("of another shape", mismatched),
            ("without a place in the model", strange),
        )
        if keys
    ]
    kind = "the causal language model" if role is PROXY else "the encoder"
    if faults:
        raise errors.UsageError(
            f"{role.flag}={name}: its weights are not those of {kind} that its config.json names "
            f"({'; '.join(faults)}); pass a checkpoint of {kind}, as save_pretrained writes it"
        )


def content_fingerprint(name: str, revision: str | None = None) -> str:
    """Returns a fingerprint of a model's content, so an artifact made with other content is never reused.

    Args:
      name: A local folder, or a hub id.
      revision: Branch, tag or commit of a hub id.

    Returns:
      "sha256:..." over names and bytes of the folder's configuration, tokenizer and weights, or
      "hub:<id>@<commit>" with the commit of the revision.

    Raises:
      UsageError: If neither a folder nor a hub id of this name can be read.
    """
    folder = locate(name, revision, with_weights=False)
    if is_folder(name, revision):
        return f"sha256:{_folder_digest(folder)}"
    # A commit names its content, so gigabytes of weights need not be hashed.
    return f"hub:{name}@{folder.name}"


def refuse_pointer(file: pathlib.Path, role: Role = PROXY) -> None:
    """Refuses a git-lfs pointer in place of a file.

    Raises:
      UsageError: If the file is a pointer.
    """
    # A pointer has some 130 bytes; larger files need not be opened.
    if file.stat().st_size > 1024:
        return
    with file.open("rb") as stream:
        if stream.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise errors.UsageError(
                f"{role.flag}: {file} is a git-lfs pointer, not the file itself; run git lfs pull in its folder"
            )


def first_line(error: Exception) -> str:
    """Cuts the error of another library to its first nonempty line, for messages of one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # A first line such as "... one of:" needs the list after it.
    return " ".join(lines[:3]) if lines[0].endswith(":") else lines[0]


@contextlib.contextmanager
def refusing(what: str, role: Role, remedy: str) -> Iterator[None]:
    """Turns any error of a library on a user's files into a message of one line, and silences the library's output.

    Args:
      what: The missing object and its place.
      role: Role of the model.
      remedy: The files that a folder must have.

    Raises:
      UsageError: For every error except `BeamQuadError` and errors of memory.
    """
    before = transformers.utils.logging.get_verbosity()
    # The library would print tables of weights before the one line that says what to do.
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    except (errors.BeamQuadError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # The tokenizers library raises bare exceptions.
        raise errors.UsageError(
            f"{what} ({first_line(error)[:300]}); pass {role.flag} a folder {remedy}, or a hub id"
        ) from error
    finally:
        transformers.utils.logging.set_verbosity(before)


def _headers(folder: pathlib.Path, name: str, role: Role) -> dict[str, torch.Tensor]:
    """Reads names and shapes of a checkpoint's weights, as tensors on the `meta` device."""
    is_downloaded = any(folder.glob(_WEIGHTS)) or folder_of(name).is_dir()
    told = _stored_headers if is_downloaded else _hub_headers
    weights = {}
    for key, shape, dtype in told(folder, name, role):
        if _QUANTIZED.match(dtype):
            raise _quantized(name, role, f"({key} is {dtype})")
        weights[key] = torch.empty(shape, device="meta")
    return weights


def _stored_headers(
    folder: pathlib.Path, name: str, role: Role
) -> Iterator[tuple[str, list[int], str]]:
    for file in weight_files(folder, name, role):
        refuse_pointer(file, role)
        try:
            with safetensors.safe_open(file, framework="pt") as opened:
                for key in opened.keys():  # noqa: SIM118
                    header = opened.get_slice(key)
                    yield key, header.get_shape(), header.get_dtype()
        except (safetensors.SafetensorError, OSError) as error:
            raise errors.UsageError(
                f"{role.flag}={name}: {file.name} is cut off or damaged ({first_line(error)}); copy or download it again"
            ) from error


def _hub_headers(
    folder: pathlib.Path, name: str, role: Role
) -> Iterator[tuple[str, list[int], str]]:
    # The header of each file has names and shapes, so a launcher need not download the weights.
    try:
        found = huggingface_hub.HfApi().get_safetensors_metadata(name, revision=folder.name)
    except Exception as error:  # As in `locate`.
        raise errors.UsageError(
            f"no safetensors weights of {name!r} on the hub ({type(error).__name__}: {first_line(error)}); "
            f"pass {role.flag} a model that has them, and check the network and HF_TOKEN"
        ) from error
    for file in found.files_metadata.values():
        for key, tensor in file.tensors.items():
            yield key, tensor.shape, tensor.dtype


def _quantized(name: str, role: Role, how: str) -> errors.UsageError:
    return errors.UsageError(
        f"{role.flag}={name} is quantised {how}; pass the model that it was made from, in float32 or bfloat16"
    )


def _content_files(files: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    return sorted(file for file in files if file.suffix in _CONTENT_SUFFIXES and file.is_file())


def _folder_digest(folder: pathlib.Path) -> str:
    digest = hashlib.sha256()
    for file in _content_files(folder.iterdir()):
        # The size separates the bytes of one file from the name of the next.
        digest.update(f"{file.name}\x1f{file.stat().st_size}\x1f".encode())
        with file.open("rb") as stream:
            while piece := stream.read(_READ_BYTES):
                digest.update(piece)
    return digest.hexdigest()


def _without_numbers(key: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in key.split("."))


def _prefix_hint(missing: list[str], strange: list[str]) -> str:
    """Returns a hint if the file has the model's names behind a prefix."""
    found = set(strange)
    for prefix in {other.removesuffix(missing[-1]) for other in strange} if missing else ():
        if prefix + missing[-1] in found:
            return f" but for a prefix {prefix!r}, as of torch.compile or a wrapper"
    return ""
