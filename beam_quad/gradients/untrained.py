"""A model that nobody has trained: a configuration without weights, which a seed draws."""

import hashlib
import threading
from typing import Any

import torch
import transformers

from beam_quad import errors, seeding
from beam_quad.gradients import checkpoints
from beam_quad.gradients.proxy import (
    DTYPES,
    Proxy,
    ProxySpec,
    default_context_length,
    require_causal,
    require_device,
    set_up_torch,
)

CONFIGURATION = checkpoints.Role("model configuration", "--proof_model", "--proof_model")
# In any format: a folder that holds one of these is a model, and refused where its weights cannot be loaded.
_WEIGHTS = ("safetensors", "bin", "pt", "pth", "ckpt", "h5", "msgpack", "gguf", "onnx")
_NOT_BARE = ("*.index.json", "adapter_config.json", *(f"*.{ending}" for ending in _WEIGHTS))
_TOKENIZERS = ("tokenizer*", "vocab.*", "*.model")
# Libraries draw weights from torch's one global generator.
_drawing = threading.Lock()


def is_bare(path: str) -> bool:
    """Whether a path is a configuration alone: a JSON file, or a folder with config.json and no weights."""
    place = checkpoints.folder_of(path)
    if place.is_file():
        return place.suffix == ".json"
    if not (place / "config.json").is_file():
        return False
    return not any(found for pattern in _NOT_BARE for found in place.glob(pattern))


def has_tokenizer(path: str) -> bool:
    """Whether a bare configuration comes with a tokenizer."""
    place = checkpoints.folder_of(path)
    return any(found for pattern in _TOKENIZERS for found in place.glob(pattern))


def fingerprint(path: str) -> str:
    """Names the content of a bare configuration, and of the tokenizer beside it."""
    place = checkpoints.folder_of(path)
    if place.is_file():
        return f"sha256:{hashlib.sha256(place.read_bytes()).hexdigest()}"
    return checkpoints.content_fingerprint(path)


def load_empty_model(spec: ProxySpec) -> Any:
    """Makes the model of a bare configuration, on torch's `meta` device.

    Raises:
      UsageError: If it is no configuration of a causal language model.
    """
    with torch.device("meta"):
        return _new_model(spec)


def require_vocabulary(spec: ProxySpec, tokenizer: Any, own: bool) -> None:
    """Refuses a tokenizer that is not the configuration's.

    Args:
      spec: The configuration.
      tokenizer: The tokenizer, changed in place as by `checkpoints.fit_tokenizer`.
      own: Whether it comes with the configuration. Another model's must have as many tokens as the configuration
        has rows.

    Raises:
      UsageError: If it has tokens beyond the rows, or is another model's and has fewer.
    """
    num_rows = load_empty_model(spec).get_input_embeddings().weight.shape[0]
    num_tokens = 1 + max(tokenizer.get_vocab().values())
    if not own and num_tokens != num_rows:
        raise errors.UsageError(
            f"--proof_model={spec.path} has no tokenizer, and its vocab_size of {num_rows} is not that of the proxy's "
            f"tokenizer, which has {num_tokens} tokens; save a tokenizer beside it, or set vocab_size to {num_tokens}"
        )
    checkpoints.fit_tokenizer(tokenizer, num_rows, spec.path, CONFIGURATION)


def load_untrained(spec: ProxySpec, tokenizer: Any, seed: int) -> Proxy:
    """Draws a model by a seed, the same on every device, and sets torch up as `load_proxy` does.

    Args:
      spec: The configuration, and how its model is run.
      tokenizer: Its tokenizer.
      seed: Of the weights, which are drawn by the model's own initialisation.

    Raises:
      DeviceError: If the device is not there.
      UsageError: If it is no configuration of a causal language model, or one that sees the tokens that it is to predict.
    """
    require_device(spec.device)
    set_up_torch(spec)
    with _drawing, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.integer(seed, "untrained model"))
        model = _new_model(spec)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(DTYPES[spec.dtype])
    proxy = Proxy(
        model=model.to(spec.device),
        tokenizer=tokenizer,
        context_length=default_context_length(model.config, spec),
        max_windows=spec.max_windows,
        max_batch_tokens=spec.max_batch_tokens,
    )
    require_causal(proxy, spec, CONFIGURATION)
    return proxy


def _new_model(spec: ProxySpec) -> Any:
    place = checkpoints.folder_of(spec.path)
    config = checkpoints.load_config(place, spec.path, CONFIGURATION)
    what = f"no causal language model can be made of {spec.path!r}"
    with checkpoints.refusing(what, CONFIGURATION, "with the config.json of one"):
        return transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, trust_remote_code=False
        )
