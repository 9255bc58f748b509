"""The proxy model: the causal language model whose gradients are used; it is fixed during a run."""

import dataclasses
import os
import pathlib
import re
import threading
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import torch
import transformers

from beam_quad import errors, identity
from beam_quad.gradients import checkpoints
from beam_quad.gradients.checkpoints import PROXY, Role, content_fingerprint, load_tokenizer
from beam_quad.gradients.windows import (
    Documents,
    MicroBatch,
    Window,
    even_batches,
    micro_batches,
    without_loss,
)

__all__ = [
    "Proxy",
    "ProxySpec",
    "TextReader",
    "content_fingerprint",
    "load_proxy",
    "load_reader",
    "load_skeleton",
    "load_tokenizer",
]

# Influence hardly gains from a longer context, and attention's cost grows with its square.
_DEFAULT_CONTEXT = 1024
# Cost of starting a micro-batch, in tokens: measured on a CPU, estimated on CUDA, where the few hundred launches of a
# pass take as long as some thousand tokens of a model of 100 M parameters.
_START_TOKENS = {"cpu": 128, "cuda": 1024}
# The most logits of one micro-batch: 1 GB and 4 GB of float32, and as much for their gradient. With the default of
# 8,192 tokens, the limit applies if the vocabulary has more than 32,768 or 131,072 entries.
_LOGIT_ENTRIES = {"cpu": 1 << 28, "cuda": 1 << 30}
# Names of the number of positions in models' configurations. If a configuration has two, the model reads the first.
_POSITIONS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "max_sequence_length",
    "max_target_positions",
    "seq_length",
    "n_ctx",
)
# Length of the texts that test whether a model sees ahead, and the least change of a logit, relative to the largest,
# that counts: far above rounding, far below the effect of attention to one token in eight.
_TRIED_TOKENS = 8
_SEEN_AHEAD = {"float32": 1e-5, "bfloat16": 1e-3}
_DEVICE = re.compile(r"cpu|cuda(:\d+)?")
# Dtypes of a proxy's parameters, by name.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclasses.dataclass(frozen=True)
class ProxySpec:
    """The model to load and how to run it.

    Args:
      path: Local folder with config, tokenizer and safetensors weights, or a hub id.
      revision: Branch, tag or commit of a hub id.
      device: "cpu", "cuda" or "cuda:N". There is no fallback.
      dtype: "float32" or "bfloat16"; sums are accumulated in float32 either way.
      num_threads: CPU threads of a pass; None keeps torch's default, which differs between machines.
      context_length: Tokens of a window; None for the model's positions, at most 1024.
      max_windows: The most windows of a document that are used.
      max_batch_tokens: Padded tokens of one micro-batch.
    """

    path: Annotated[str, identity.NotCounted("the model has a fingerprint")]
    revision: Annotated[str | None, identity.NotCounted("as the path")] = None
    device: Annotated[
        str, identity.CountedAs(identity.device_kind, "one device is as good as another")
    ] = "cpu"
    dtype: str = "float32"
    num_threads: Annotated[
        int | None,
        identity.NotCounted(
            "it changes last bits only, and a run goes on on a machine with other cores"
        ),
    ] = None
    context_length: int | None = None
    max_windows: int = 4
    max_batch_tokens: int = 8192

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise errors.UsageError(f"dtype must be one of {sorted(DTYPES)}, got {self.dtype!r}")
        if not _DEVICE.fullmatch(self.device):
            raise errors.UsageError(f"device must be cpu, cuda or cuda:N, got {self.device!r}")
        for name in ("num_threads", "max_windows", "max_batch_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise errors.UsageError(f"{name} must be at least 1, got {value}")


@dataclasses.dataclass(eq=False)
class Proxy:
    """A model in evaluation mode with frozen parameters, and the settings for cutting texts.

    Passes put hooks on the shared model and therefore hold `lock`: one pass at a time per process.

    Attributes:
      model: A causal language model whose output has `logits`.
      tokenizer: Its fast tokenizer.
      context_length: Tokens of a window, at least 2.
      max_windows: The most windows of a document that are used.
      max_batch_tokens: Padded tokens of one micro-batch.
      num_halvings: Number of times memory ran out and a micro-batch was halved.
      lock: Held during a pass.
    """

    model: Any
    tokenizer: Any
    context_length: int
    max_windows: int = 4
    max_batch_tokens: int = 8192
    num_halvings: int = dataclasses.field(default=0, init=False)
    lock: threading.RLock = dataclasses.field(
        default_factory=threading.RLock, init=False, repr=False
    )
    _reading: threading.Lock = dataclasses.field(
        default_factory=threading.Lock, init=False, repr=False
    )

    def __post_init__(self) -> None:
        if self.context_length < 2:
            raise errors.UsageError(
                f"context_length must be at least 2, got {self.context_length}: "
                "the first token of a window is never predicted"
            )
        self.model.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        device: torch.device = next(iter(self.model.parameters())).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the model's parameters."""
        dtype: torch.dtype = next(iter(self.model.parameters())).dtype
        return dtype

    @property
    def sum_dtype(self) -> torch.dtype:
        """Dtype of sums: float32, or float64 if the model is in float64."""
        return torch.promote_types(self.dtype, torch.float32)

    def read(self, texts: Sequence[str] | Documents) -> Documents:
        """Tokenises texts and cuts them into windows; needs neither the device nor the lock.

        Args:
          texts: The texts, or the result of an earlier call.

        Returns:
          The documents, ready for a pass.
        """
        if isinstance(texts, Documents):
            return texts
        # Fast tokenizers raise an error if two threads call them at the same time.
        with self._reading:
            return Documents.of(texts, self.tokenizer, self.context_length, self.max_windows)

    def without_loss(self, texts: Sequence[str]) -> dict[str, int]:
        """Counts the texts without a loss, by reason."""
        with self._reading:
            return without_loss(self.tokenizer, texts, self.context_length)

    def micro_batches(
        self, windows: Sequence[Window], max_batch_tokens: int
    ) -> Iterator[MicroBatch]:
        """Cuts windows into micro-batches for the device; see `windows.micro_batches`."""
        most = self._most_tokens(max_batch_tokens)
        return micro_batches(windows, self.context_length, most, _START_TOKENS[self.device.type])

    def even_batches(
        self, windows: Sequence[Window], max_batch_tokens: int
    ) -> Iterator[tuple[MicroBatch, torch.Tensor]]:
        """Cuts windows into micro-batches of one padded length each; see `windows.even_batches`."""
        return even_batches(windows, self.context_length, self._most_tokens(max_batch_tokens))

    def _most_tokens(self, max_batch_tokens: int) -> int:
        vocabulary: int = self.model.get_output_embeddings().weight.shape[0]
        return max(1, min(max_batch_tokens, _LOGIT_ENTRIES[self.device.type] // vocabulary))


def load_proxy(spec: ProxySpec) -> Proxy:
    """Loads a proxy, and sets torch to the spec's number of threads and to deterministic kernels.

    Args:
      spec: The model to load.

    Returns:
      The proxy, on its device.

    Raises:
      DeviceError: If the device is missing.
      UsageError: If there is no such model, if its weights or its tokenizer do not fit it, if the context is longer than
        its positions, or if it sees the tokens it predicts.
    """
    require_device(spec.device)
    set_up_torch(spec)
    tokenizer = load_tokenizer(spec.path, spec.revision)
    folder = _require_folder(spec)
    # Names missing weights and a damaged index before the load starts.
    checkpoints.weight_files(folder, spec.path)
    config = checkpoints.load_config(folder, spec.path)
    with checkpoints.refusing(*_no_model(spec)):
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            str(folder),
            config=config,
            dtype=DTYPES[spec.dtype],
            use_safetensors=True,
            trust_remote_code=False,
            # Faults do not raise here, so `require_loaded` can name all kinds of them in one message.
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    checkpoints.require_loaded(info, model.state_dict(), spec.path)
    require_tokens(tokenizer, model, spec)
    proxy = Proxy(
        model=model.to(spec.device),
        tokenizer=tokenizer,
        context_length=default_context_length(model.config, spec),
        max_windows=spec.max_windows,
        max_batch_tokens=spec.max_batch_tokens,
    )
    require_causal(proxy, spec)
    return proxy


def load_skeleton(spec: ProxySpec) -> Any:
    """Makes the proxy's model without its weights, for a launcher to check flags and count parameters.

    Args:
      spec: The model to load.

    Returns:
      The model, on torch's `meta` device.

    Raises:
      UsageError: As `load_proxy`, for errors that show without the weights.
    """
    folder = _require_folder(spec, with_weights=False)
    config = checkpoints.load_config(folder, spec.path)
    with checkpoints.refusing(*_no_model(spec)), torch.device("meta"):
        empty = transformers.AutoModelForCausalLM.from_config(
            config, dtype=DTYPES[spec.dtype], trust_remote_code=False
        )
    model = checkpoints.load_empty(empty, folder, spec.path)
    default_context_length(model.config, spec)
    return model


@dataclasses.dataclass(frozen=True)
class TextReader:
    """The proxy's tokenizer and windows, without its weights.

    Attributes:
      tokenizer: Its fast tokenizer.
      context_length: Tokens of a window, at least 2.
      max_windows: The most windows of a document that are used.
      vocabulary: Rows of the model's embedding; every token id is smaller.
    """

    tokenizer: Any
    context_length: int
    max_windows: int
    vocabulary: int

    def read(self, texts: Sequence[str]) -> Documents:
        """Tokenises texts and cuts them into windows, as `Proxy.read` does."""
        return Documents.of(texts, self.tokenizer, self.context_length, self.max_windows)

    def without_loss(self, texts: Sequence[str]) -> dict[str, int]:
        """Counts the texts without a loss, by reason."""
        return without_loss(self.tokenizer, texts, self.context_length)


def load_reader(spec: ProxySpec) -> TextReader:
    """Loads the tokenizer and windows of a proxy without its weights.

    Raises:
      UsageError: As for `load_skeleton` and `require_tokens`.
    """
    skeleton = load_skeleton(spec)
    tokenizer = load_tokenizer(spec.path, spec.revision)
    require_tokens(tokenizer, skeleton, spec)
    return TextReader(
        tokenizer,
        default_context_length(skeleton.config, spec),
        spec.max_windows,
        int(skeleton.get_input_embeddings().weight.shape[0]),
    )


def require_tokens(tokenizer: Any, model: Any, spec: ProxySpec) -> None:
    """Refuses a tokenizer with tokens beyond the model's embedding; see `checkpoints.fit_tokenizer`.

    Args:
      tokenizer: The proxy's tokenizer, changed in place.
      model: The proxy's model, on any device including `meta`.
      spec: The spec of both, for the message.

    Raises:
      UsageError: If there is such a token.
    """
    num_rows = model.get_input_embeddings().weight.shape[0]
    checkpoints.fit_tokenizer(tokenizer, num_rows, spec.path)


def default_context_length(config: Any, spec: ProxySpec) -> int:
    """Returns the tokens of a window: as asked for, or the model's positions, at most 1024.

    Args:
      config: The model's configuration.
      spec: The model's spec.

    Returns:
      The tokens, at least 2.

    Raises:
      UsageError: If more are asked for than the model has positions.
    """
    text_config = config.get_text_config()
    positions = next(
        (
            n
            for name in _POSITIONS
            if isinstance(n := getattr(text_config, name, None), int) and n > 0
        ),
        None,
    )
    if spec.context_length is None:
        return min(positions or _DEFAULT_CONTEXT, _DEFAULT_CONTEXT)
    if positions is not None and spec.context_length > positions:
        raise errors.UsageError(
            f"context_length is {spec.context_length} but {spec.path!r} has {positions} positions; "
            f"pass --context_length={positions} or less"
        )
    return spec.context_length


def require_device(device: str) -> None:
    """Checks that a device exists.

    Args:
      device: "cpu", "cuda" or "cuda:N".

    Raises:
      UsageError: If the name is none of these.
      DeviceError: If the device is missing.
    """
    if not _DEVICE.fullmatch(device):
        raise errors.UsageError(f"device must be cpu, cuda or cuda:N, got {device!r}")
    if device == "cpu":
        return
    index = int(device.partition(":")[2] or 0)
    if not torch.cuda.is_available() or index >= torch.cuda.device_count():
        raise errors.DeviceError(
            f"{device} is not there ({torch.cuda.device_count()} CUDA devices found); "
            "pass --device=cpu, or run where it is"
        )


def set_up_torch(spec: ProxySpec) -> None:
    """Sets torch to the spec's threads and to deterministic kernels."""
    # cuBLAS is deterministic only with a fixed workspace. It reads the variable when it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    transformers.utils.logging.disable_progress_bar()
    # Deterministic mode would fill every new tensor to expose reads of uninitialised memory; this code has none.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if spec.num_threads is not None:
        torch.set_num_threads(spec.num_threads)


def _require_folder(spec: ProxySpec, with_weights: bool = True) -> pathlib.Path:
    folder = checkpoints.locate(spec.path, spec.revision, with_weights=with_weights)
    # transformers would load the base from another place, which the folder's fingerprint does not cover.
    if (folder / "adapter_config.json").is_file():
        raise errors.UsageError(
            f"{spec.path!r} is an adapter, not a model: merge it into its base with peft "
            f"(merge_and_unload), and pass {PROXY.flag} the folder that save_pretrained then writes"
        )
    return folder


def _no_model(spec: ProxySpec) -> tuple[str, checkpoints.Role, str]:
    return (
        f"no causal language model in {spec.path!r}",
        PROXY,
        "with config.json and safetensors",
    )


@torch.no_grad()
def require_causal(proxy: Proxy, spec: ProxySpec, role: Role = PROXY) -> None:
    """Refuses a model whose predictions for earlier tokens depend on later ones.

    Two texts that differ only in the last token go through the model one by one, so both take the same kernels. In a
    model that sees ahead, all earlier logits change. In a mixture of experts, rounding may change some of them, because
    an expert gets other tokens in its batch.
    """
    num_rows = proxy.model.get_input_embeddings().weight.shape[0]
    tokens = [min(3 + i, num_rows - 1) for i in range(_TRIED_TOKENS)]
    logits = []
    for last in (tokens[-1], 0):
        ids = torch.tensor([[*tokens[:-1], last]], device=proxy.device)
        with checkpoints.refusing(*_no_model(spec)):
            output = proxy.model(input_ids=ids, use_cache=False)
        # The last position is left out: its token differs, so its logits may.
        logits.append(output.logits[0, :-1].float())
    moved = (logits[0] - logits[1]).abs().amax(dim=-1)
    scale = logits[0].abs().amax(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
    if (moved > _SEEN_AHEAD[spec.dtype] * scale).all():
        raise errors.UsageError(
            f"{role.flag}={spec.path} sees the tokens that it is to predict: {type(proxy.model).__name__} is no causal "
            "language model as its config.json stands (is_decoder, use_bidirectional_attention); pass one that is"
        )
