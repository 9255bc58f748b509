"""The proxy model: the causal language model whose gradients are used, fixed during a run."""

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
# What starting a micro-batch costs in tokens, on a CPU (measured) and on CUDA, where a pass of a few hundred launches
# takes as long as some thousand tokens of a model of 100 M parameters (estimated).
_START_TOKENS = {"cpu": 128, "cuda": 1024}
# Logits of one micro-batch: 1 GB and 4 GB of float32, and as much for their gradient. It binds where the vocabulary has
# more than 32,768 or 131,072 entries, with the default of 8,192 tokens.
_LOGIT_ENTRIES = {"cpu": 1 << 28, "cuda": 1 << 30}
# How models name the tokens that they have positions for; where two stand, the first is what the model reads.
_POSITIONS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "max_sequence_length",
    "max_target_positions",
    "seq_length",
    "n_ctx",
)
# Tokens of the texts that tell whether a model sees ahead, and what counts as a change, of the largest logit: far above
# rounding, far below what attention to one token in eight does.
_TRIED_TOKENS = 8
_SEEN_AHEAD = {"float32": 1e-5, "bfloat16": 1e-3}
_DEVICE = re.compile(r"cpu|cuda(:\d+)?")
# Dtypes of a proxy's parameters, by name.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclasses.dataclass(frozen=True)
class ProxySpec:
    """Which model to load, and how to run it.

    Args:
      path: Local folder with config, tokenizer and safetensors weights, or a hub id.
      revision: Branch, tag or commit of a hub id.
      device: "cpu", "cuda" or "cuda:N". There is no fallback.
      dtype: "float32" or "bfloat16"; sums are accumulated in float32 either way.
      num_threads: CPU threads of a pass; None leaves torch's own choice, which differs between machines.
      context_length: Tokens of a window; None takes the model's positions, at most 1024.
      max_windows: Windows of a document that are looked at.
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
    """A model in evaluation mode with frozen parameters, and how texts are cut for it.

    Passes put hooks on the shared model, so they hold `lock`: one pass at a time per process.

    Attributes:
      model: A causal language model whose call gives `logits`.
      tokenizer: Its fast tokenizer.
      context_length: Tokens of a window, at least 2.
      max_windows: Windows of a document that are looked at.
      max_batch_tokens: Padded tokens of one micro-batch.
      num_halvings: How often memory ran out so far, and a micro-batch was halved.
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
        """Where the model's inputs go."""
        device: torch.device = next(iter(self.model.parameters())).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the model's parameters."""
        dtype: torch.dtype = next(iter(self.model.parameters())).dtype
        return dtype

    @property
    def sum_dtype(self) -> torch.dtype:
        """Dtype of sums: float32, or float64 for a model of float64."""
        return torch.promote_types(self.dtype, torch.float32)

    def read(self, texts: Sequence[str] | Documents) -> Documents:
        """Tokenises texts and cuts them into windows; needs neither the device nor the lock.

        Args:
          texts: The texts, or what an earlier call made of them.

        Returns:
          The documents, ready for a pass.
        """
        if isinstance(texts, Documents):
            return texts
        # Fast tokenizers refuse two callers at once.
        with self._reading:
            return Documents.of(texts, self.tokenizer, self.context_length, self.max_windows)

    def without_loss(self, texts: Sequence[str]) -> dict[str, int]:
        """Counts the texts that have no loss, by reason."""
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
    """Loads a proxy, and sets torch to the spec's threads and to deterministic kernels.

    Args:
      spec: What to load.

    Returns:
      The proxy, on its device.

    Raises:
      DeviceError: If the device is not there.
      UsageError: If there is no such model, if its weights or its tokenizer do not fit it, if the context is longer than
        its positions, or if it sees the tokens that it is to predict.
    """
    require_device(spec.device)
    set_up_torch(spec)
    tokenizer = load_tokenizer(spec.path, spec.revision)
    folder = _require_folder(spec)
    checkpoints.weight_files(folder, spec.path)
    config = checkpoints.load_config(folder, spec.path)
    with checkpoints.refusing(*_no_model(spec)):
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            str(folder),
            config=config,
            dtype=DTYPES[spec.dtype],
            use_safetensors=True,
            trust_remote_code=False,
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
    """Makes the proxy's model without its weights: what a launcher needs to check flags and count parameters.

    Args:
      spec: What to load.

    Returns:
      The model, on torch's `meta` device.

    Raises:
      UsageError: As `load_proxy`, as far as it can be told without the weights.
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
      max_windows: Windows of a document that are looked at.
      vocabulary: Rows of the model's embedding; every token id is below it.
    """

    tokenizer: Any
    context_length: int
    max_windows: int
    vocabulary: int

    def read(self, texts: Sequence[str]) -> Documents:
        """Tokenises texts and cuts them into windows, as `Proxy.read` does."""
        return Documents.of(texts, self.tokenizer, self.context_length, self.max_windows)

    def without_loss(self, texts: Sequence[str]) -> dict[str, int]:
        """Counts the texts that have no loss, by reason."""
        return without_loss(self.tokenizer, texts, self.context_length)


def load_reader(spec: ProxySpec) -> TextReader:
    """Loads what reads texts as the proxy does.

    Raises:
      UsageError: As `load_skeleton` and `require_tokens`.
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
    """Refuses a tokenizer with tokens that the model has no embedding for; see `checkpoints.fit_tokenizer`.

    Args:
      tokenizer: The proxy's tokenizer, changed in place.
      model: Its model, on any device, `meta` too.
      spec: Names both.

    Raises:
      UsageError: If there is such a token.
    """
    num_rows = model.get_input_embeddings().weight.shape[0]
    checkpoints.fit_tokenizer(tokenizer, num_rows, spec.path)


def default_context_length(config: Any, spec: ProxySpec) -> int:
    """Decides the tokens of a window: as asked for, or the model's positions, at most 1024.

    Args:
      config: The model's configuration.
      spec: Names the model.

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
    """Checks that a device is there.

    Args:
      device: "cpu", "cuda" or "cuda:N".

    Raises:
      UsageError: If it is none of these.
      DeviceError: If it is not there.
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
    # cuBLAS is deterministic only with a fixed workspace, and reads this when it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    transformers.utils.logging.disable_progress_bar()
    # Filling every new tensor finds bugs in kernels; ours never read what they have not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if spec.num_threads is not None:
        torch.set_num_threads(spec.num_threads)


def _require_folder(spec: ProxySpec, with_weights: bool = True) -> pathlib.Path:
    folder = checkpoints.locate(spec.path, spec.revision, with_weights=with_weights)
    # transformers would look for the base elsewhere, of which the folder's fingerprint knows nothing.
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
    """Refuses a model in which a later token changes what is predicted of earlier ones.

    Two texts that differ in the last token alone go through the model one by one, so that both take the same kernels. In
    a model that sees ahead all earlier logits move; in a mixture, whose experts are given other tokens beside, rounding
    may move some of them.
    """
    num_rows = proxy.model.get_input_embeddings().weight.shape[0]
    tokens = [min(3 + i, num_rows - 1) for i in range(_TRIED_TOKENS)]
    logits = []
    for last in (tokens[-1], 0):
        ids = torch.tensor([[*tokens[:-1], last]], device=proxy.device)
        with checkpoints.refusing(*_no_model(spec)):
            output = proxy.model(input_ids=ids, use_cache=False)
        logits.append(output.logits[0, :-1].float())
    moved = (logits[0] - logits[1]).abs().amax(dim=-1)
    scale = logits[0].abs().amax(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
    if (moved > _SEEN_AHEAD[spec.dtype] * scale).all():
        raise errors.UsageError(
            f"{role.flag}={spec.path} sees the tokens that it is to predict: {type(proxy.model).__name__} is no causal "
            "language model as its config.json stands (is_decoder, use_bidirectional_attention); pass one that is"
        )
