"""An untrained model: a configuration without weights, and weights drawn by a seed."""

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
# Endings of weights in any format. A folder with one of these is a model, which is refused if its weights cannot be loaded.
_WEIGHTS = ("safetensors", "bin", "pt", "pth", "ckpt", "h5", "msgpack", "gguf", "onnx")
_NOT_BARE = ("*.index.json", "adapter_config.json", *(f"*.{ending}" for ending in _WEIGHTS))
_TOKENIZERS = ("tokenizer*", "vocab.*", "*.model")
# Libraries draw weights from torch's global generator, so only one model is drawn at a time.
_drawing = threading.Lock()


def is_bare(path: str) -> bool:
    """Returns whether a path is a bare configuration: a JSON file, or a folder with config.json and no weights."""
    place = checkpoints.folder_of(path)
    if place.is_file():
        return place.suffix == ".json"
    if not (place / "config.json").is_file():
        return False
    return not any(found for pattern in _NOT_BARE for found in place.glob(pattern))


def has_tokenizer(path: str) -> bool:
    """Returns whether a bare configuration comes with a tokenizer."""
    place = checkpoints.folder_of(path)
    return any(found for pattern in _TOKENIZERS for found in place.glob(pattern))


def fingerprint(path: str) -> str:
    """Returns a fingerprint of a bare configuration's content, and of the tokenizer beside it."""
    place = checkpoints.folder_of(path)
    if place.is_file():
        return f"sha256:{hashlib.sha256(place.read_bytes()).hexdigest()}"
    return checkpoints.content_fingerprint(path)


def load_empty_model(spec: ProxySpec) -> Any:
    """Makes the model of a bare configuration, on torch's `meta` device.

    Raises:
      UsageError: If the configuration is not that of a causal language model.
    """
    with torch.device("meta"):
        return _new_model(spec)


def require_vocabulary(spec: ProxySpec, tokenizer: Any, own: bool) -> None:
    """Refuses a tokenizer that does not fit the configuration.

    Args:
      spec: The configuration.
      tokenizer: The tokenizer, changed in place as by `checkpoints.fit_tokenizer`.
      own: Whether the tokenizer comes with the configuration. Another model's tokenizer must have exactly as many tokens
        as the configuration has rows.

    Raises:
      UsageError: If the tokenizer has tokens beyond the rows, or is another model's and has fewer tokens.
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
      spec: The configuration, and how to run its model.
      tokenizer: Its tokenizer.
      seed: Seed of the weights, which the model's own initialisation draws.

    Raises:
      DeviceError: If the device is missing.
      UsageError: If the configuration is not that of a causal language model, or the model sees the tokens it predicts.
    """
    require_device(spec.device)
    set_up_torch(spec)
    # Drawn on the CPU in float32 and moved afterwards, so the weights do not depend on the device.
    with _drawing, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.integer(seed, "untrained model"))
        model = _new_model(spec)
    # `Module.to` would cast buffers too, such as rotary frequencies, which stay in float32.
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
