"""Sentence encoders of sentence-transformers."""

import functools
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tokenizers
import torch
import transformers
from sentence_transformers import SentenceTransformer
from torch import nn

from beam_quad.embedding.costs import EmbedderCosts
from beam_quad.embedding.norms import unit_rows
from beam_quad.embedding.sources import locate, source_fingerprint
from beam_quad.embedding.spec import EmbedderSpec
from beam_quad.errors import DeviceError, UsageError
from beam_quad.gradients import checkpoints
from beam_quad.gradients.checkpoints import EMBEDDER
from beam_quad.gradients.passes import is_out_of_memory

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Texts in a micro-batch on a CPU, which is no faster with larger ones.
_CPU_TEXTS = 32
# Padded characters of the texts of similar length tokenised together. On a GPU such a chunk is one micro-batch, some 130,000
# tokens of English.
_CHUNK_CHARACTERS = 1 << 19
# A word of every vocabulary, used to find the special tokens around a text.
_WORD = "a"
_TOKENS_PER_PASS = 1024
# If a GPU cannot hold this few texts, a smaller micro-batch is not tried.
_FEWEST_TEXTS = 8
# Characters per token at which a text is cut before it is tokenised, so that the tail of a book is not tokenised only to be
# dropped. The second number is used if the first cut leaves the model's limit unfilled. English has about 4.5.
_CHARACTERS_PER_TOKEN = (8, 32)


class Chunk(NamedTuple):
    """Tokenised texts of similar length.

    Attributes:
      rows: Positions of the texts in their call, int64 [n].
      features: Inputs of the encoder, on the CPU.
      num_tokens: Tokens of each text, int64 [n]; None if the encoder does not take padded tokens.
    """

    rows: np.ndarray
    features: dict[str, Any]
    num_tokens: np.ndarray | None

    def where(self, is_wanted: np.ndarray) -> "Chunk":
        """Takes the wanted texts, bool [n]; only for padded tokens."""
        assert self.num_tokens is not None
        features = _some(self.features, torch.from_numpy(np.flatnonzero(is_wanted)))
        return Chunk(self.rows[is_wanted], features, self.num_tokens[is_wanted])


class SentenceEmbedder:
    """Embeds texts with a sentence encoder.

    The texts of a call are sorted by length and content before they are cut into micro-batches, so the result does not
    depend on other calls or on the order of the texts. (The composition of a micro-batch changes the last bits, about 1e-7.)

    Attributes:
      dim: Dimension of the vectors.
      num_halvings: How often a micro-batch was halved because the device's memory ran out.
    """

    def __init__(self, directory: Path, spec: EmbedderSpec) -> None:
        """Loads the encoder and pins the number of threads.

        Raises:
          DeviceError: If the spec's device does not exist.
          UsageError: If the encoder cannot be loaded, its weights or its tokenizer do not fit it, or it has fewer dimensions
            than the spec requests.
        """
        self._device = _checked_device(spec.device)
        if spec.num_threads is not None:
            torch.set_num_threads(spec.num_threads)
        self._model = load_model(directory, spec, {"device": str(self._device)})
        self._prompt = _prompt(self._model, spec.prompt)
        self._limit = _limit_tokens(self._model, spec.max_tokens)
        self.num_halvings = 0
        # Embeds one word to learn whether the encoder takes padded tokens, and its dimension.
        first = self._tokenized(["dimension"], [0])
        self._is_padded = first.num_tokens is not None
        full_dim = int(self._vectors(first).shape[1])
        full_dim = min(full_dim, self._model.truncate_dim or full_dim)
        self.dim = checked_dimension(spec.name, spec.dim, full_dim)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds texts, float32 [num_texts, dim]: unit rows, or 0 if a vector is not finite; see `Embedder.embed`."""
        return self.embed_prepared(self.prepare(texts))

    def prepare(self, texts: Sequence[str]) -> list[Chunk]:
        """Tokenises texts in chunks of similar length; see `PreparingEmbedder.prepare`."""
        rows = range(len(texts))
        if self._limit is None:
            return list(self._chunks(texts, rows, None))
        near, far = (self._limit * characters for characters in _CHARACTERS_PER_TOKEN)
        # Without a token count it is unknown whether the short cut fills the limit.
        if not self._is_padded:
            return list(self._chunks(texts, rows, far))
        chunks, again = [], []
        for chunk in self._chunks(texts, rows, near):
            is_cut = np.array([len(texts[row]) > near for row in chunk.rows])
            is_short = is_cut & (np.asarray(chunk.num_tokens, float) < self._limit)
            again += chunk.rows[is_short].tolist()
            if not is_short.all():
                chunks.append(chunk.where(~is_short) if is_short.any() else chunk)
        return [*chunks, *self._chunks(texts, sorted(again), far)]

    def embed_prepared(self, chunks: Sequence[Chunk]) -> np.ndarray:
        """Embeds the chunks of `prepare`; see `PreparingEmbedder.embed_prepared`."""
        vectors = np.empty((sum(len(chunk.rows) for chunk in chunks), self.dim), np.float32)
        for chunk in chunks:
            vectors[chunk.rows] = self._vectors(chunk)[:, : self.dim].numpy()
        return unit_rows(vectors)

    @functools.cached_property
    def num_tokens(self) -> int:
        """Number of vocabulary tokens with an embedding."""
        size = len(own_tokenizer(self._model))
        rows = self._model[0].auto_model.get_input_embeddings().weight.shape[0]
        return min(size, int(rows))

    def tokenizer(self) -> str:
        """The tokenizer, as JSON, without truncation and padding."""
        backend = own_tokenizer(self._model).backend_tokenizer
        copy = tokenizers.Tokenizer.from_str(backend.to_str())
        copy.no_truncation()
        copy.no_padding()
        return copy.to_str()

    @torch.inference_mode()
    def embed_tokens(self, tokens: np.ndarray) -> np.ndarray:
        """Embeds tokens, int64 [n], each as a separate text without a prompt.

        Returns:
          Vectors of any norm, float32 [n, dim].
        """
        features = _features(self._model, [_WORD], "")
        whole = features["input_ids"][0].tolist()
        inner = own_tokenizer(self._model)(_WORD, add_special_tokens=False)["input_ids"]
        # The token ids replace the word between the special tokens, because decoding and re-tokenising would change them.
        start = next(i for i in range(len(whole)) if whole[i : i + len(inner)] == inner)
        vectors = []
        for run in np.array_split(tokens, -(-len(tokens) // _TOKENS_PER_PASS)):
            ids = [[*whole[:start], token, *whole[start + len(inner) :]] for token in run.tolist()]
            padded = torch.tensor(ids, device=self._device)
            # Masks and token types are the same in every row; only the ids differ.
            alike = {
                name: value[:, :1].expand(padded.shape).to(self._device)
                for name, value in features.items()
                if isinstance(value, torch.Tensor) and value.shape == features["input_ids"].shape
            }
            vectors.append(self._pass(features | alike | {"input_ids": padded}))
        return torch.cat(vectors)[:, : self.dim].numpy()

    def _chunks(
        self, texts: Sequence[str], rows: Iterable[int], most: int | None
    ) -> Iterator[Chunk]:
        """Tokenises the texts of `rows`, cut at `most` characters, in chunks."""
        cut = {row: texts[row][:most] for row in rows}
        # By content too, so the chunks do not depend on the order of the texts.
        ordered = sorted(cut, key=lambda row: (len(cut[row]), cut[row]))
        start = 0
        for end in range(1, len(ordered) + 1):
            # Texts are sorted by length, so the next one sets the padded length.
            padded = (end + 1 - start) * len(cut[ordered[end]]) if end < len(ordered) else math.inf
            if padded > _CHUNK_CHARACTERS:
                chosen = ordered[start:end]
                yield self._tokenized([cut[row] for row in chosen], chosen)
                start = end

    def _tokenized(self, texts: list[str], rows: Sequence[int]) -> Chunk:
        features = _features(self._model, texts, self._prompt)
        mask = features.get("attention_mask")
        is_padded = isinstance(mask, torch.Tensor) and mask.ndim == 2
        num_tokens = mask.sum(1).numpy() if mask is not None and is_padded else None
        return Chunk(np.array(rows, np.int64), features, num_tokens)

    @torch.inference_mode()
    def _vectors(self, chunk: Chunk) -> torch.Tensor:
        """Passes a chunk through the encoder, float32 [n, dimension of the encoder], on the CPU."""
        features = {name: _moved(value, self._device) for name, value in chunk.features.items()}
        if chunk.num_tokens is None:
            return self._pass(features)
        # Long texts first, so memory runs out at once if it does, and each micro-batch has texts of similar length.
        order = np.argsort(-chunk.num_tokens, kind="stable")
        size = _CPU_TEXTS if self._device.type == "cpu" else len(order)
        while True:
            parts = [order[start : start + size] for start in range(0, len(order), size)]
            try:
                passed = [self._pass(_some(features, torch.from_numpy(part))) for part in parts]
            except RuntimeError as error:
                if size <= _FEWEST_TEXTS or not is_out_of_memory(error):
                    raise
            else:
                return torch.cat(passed)[torch.from_numpy(np.argsort(order))]
            # Outside the `except` block, whose error keeps the tensors of the failed attempt alive.
            size //= 2
            self.num_halvings += 1
            torch.cuda.empty_cache()

    def _pass(self, features: dict[str, Any]) -> torch.Tensor:
        vectors: torch.Tensor = self._model(features)["sentence_embedding"]
        return vectors.to("cpu", torch.float32)


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value


def _some(features: dict[str, Any], rows: torch.Tensor) -> dict[str, Any]:
    """Takes some texts of padded features, and drops the columns with only padding."""
    mask = features["attention_mask"]
    rows = rows.to(mask.device)
    columns = torch.nonzero(mask[rows].any(0)).flatten().tolist()
    used = slice(columns[0], columns[-1] + 1) if columns else slice(None)
    return {name: _taken(value, mask.shape, rows, used) for name, value in features.items()}


def _taken(value: Any, shape: tuple[int, ...], rows: torch.Tensor, used: slice) -> Any:
    if not isinstance(value, torch.Tensor) or value.ndim == 0 or len(value) != shape[0]:
        return value
    chosen = value[rows]
    return chosen[:, used] if value.shape[:2] == shape else chosen


def _features(model: SentenceTransformer, texts: list[str], prompt: str | None) -> dict[str, Any]:
    """Tokenises texts behind a prompt, as `SentenceTransformer.encode` does."""
    if hasattr(model, "preprocess"):
        return dict(model.preprocess(texts, prompt=prompt))
    # Older releases of sentence-transformers expect the caller to prepend the prompt.
    features = dict(model.tokenize([f"{prompt or ''}{text}" for text in texts]))
    if prompt and (length := model._get_prompt_length(prompt)) is not None:
        features["prompt_length"] = length
    return features


def _prompt(model: SentenceTransformer, asked: str | None) -> str | None:
    default: str | None = model.prompts.get(model.default_prompt_name)
    return default if asked is None else asked


def load(spec: EmbedderSpec, _: object) -> SentenceEmbedder:
    """As `EmbedderModule`."""
    return SentenceEmbedder(locate(spec), spec)


def fingerprint(spec: EmbedderSpec, _: object) -> str:
    """As `EmbedderModule`."""
    prompt = "" if spec.prompt is None else f":prompt={spec.prompt!r}"
    return f"{source_fingerprint(spec)}:dim={spec.dim}:max_tokens={spec.max_tokens}{prompt}"


def costs(spec: EmbedderSpec) -> EmbedderCosts:
    """As `EmbedderModule`."""
    return skeleton_costs(locate(spec), spec)


def skeleton_costs(directory: Path, spec: EmbedderSpec) -> EmbedderCosts:
    """Computes an encoder's costs from its shapes, and refuses an encoder that would not load.

    A token costs twice the encoder's parameters without its embedding tables; attention is not counted.

    Args:
      directory: Directory of the encoder.
      spec: The encoder.

    Raises:
      UsageError: As `SentenceEmbedder`, for errors visible without the weights.
    """
    # On the meta device: a launcher needs shapes, not gigabytes of weights.
    model = load_model(directory, spec, {})
    # Some multimodal modules know their dimension only after embedding a text.
    dim = _known_dimension(model)
    dim = (
        SentenceEmbedder(directory, spec).dim
        if dim is None
        else checked_dimension(spec.name, spec.dim, dim)
    )
    tables = (nn.Embedding, nn.EmbeddingBag)
    modules = [m for m in model.modules() if not isinstance(m, tables)]
    entries = sum(p.numel() for m in modules for p in m.parameters(recurse=False))
    return EmbedderCosts(dim, _limit_tokens(model, spec.max_tokens), token_flops=2.0 * entries)


def own_tokenizer(model: SentenceTransformer) -> Any:
    """Returns the fast tokenizer of an encoder's first module.

    Raises:
      UsageError: If the module has none.
    """
    tokenizer = getattr(model[0], "tokenizer", None)
    if not getattr(tokenizer, "is_fast", False) or not hasattr(model[0], "auto_model"):
        raise UsageError(
            f"{EMBEDDER.flag}=static:... distils encoders that begin with a transformer and its fast tokenizer, and this "
            f"one begins with {type(model[0]).__name__}; pass another"
        )
    return tokenizer


def _checked_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"no device {name!r}: pass cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"no device {name!r} for the embedder here; pass --device=cpu")
    return device


def load_model(directory: Path, spec: EmbedderSpec, where: dict[str, str]) -> SentenceTransformer:
    """Loads an encoder on a device, or without its weights if `where` is empty.

    Raises:
      UsageError: If it cannot be loaded, or its weights or its tokenizer do not fit it.
    """
    _require_kind(directory, spec.name)
    for part in _parts(directory):
        _require_part(part, spec.name)
    meta = {} if where else {"device_map": "meta"}
    dtype = _DTYPES[spec.dtype]
    no_encoder = f"{directory} does not load as a sentence encoder"
    with checkpoints.refusing(no_encoder, EMBEDDER, "of a sentence encoder"):
        model = SentenceTransformer(
            str(directory),
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={
                "use_safetensors": True,
                "dtype": dtype,
                # `load_empty` checks the sizes below, with errors that name the weights.
                "ignore_mismatched_sizes": True,
                # The publisher's attention implementation may not be installed here.
                "attn_implementation": None,
                **meta,
            },
            **where,
        )
        # Layers after the encoder are loaded in their own dtype.
        model = model.to(dtype).eval()
    for part, module in zip(_parts(directory), _modules(model), strict=False):
        wrapped = (m for m in module.modules() if isinstance(m, transformers.PreTrainedModel))
        if (encoder := next(wrapped, None)) is not None:
            checkpoints.load_empty(encoder, part, spec.name, EMBEDDER)
            _require_tokens(module, encoder, spec.name)
        _require_static_tokens(module, spec.name)
    # Now rather than on a worker, at the first text of the corpus.
    with checkpoints.refusing(no_encoder, EMBEDDER, "of an encoder that takes plain texts"):
        # A router may refuse a text without the name of a route.
        getattr(model, "preprocess" if hasattr(model, "preprocess") else "tokenize")(["text"])
    return model


def _parts(directory: Path) -> list[Path]:
    """Lists the folders of an encoder's modules, in the order of `_modules`."""
    index = directory / "modules.json"
    if not index.is_file():
        return [directory]
    with checkpoints.refusing(f"{index} cannot be read", EMBEDDER, "of a sentence encoder"):
        paths = [directory / module["path"] for module in json.loads(index.read_bytes())]
    return [part for path in paths for part in _routed(path)]


def _routed(part: Path) -> list[Path]:
    # "config.json" is for older models, saved when routers were called Asym.
    for name in ("router_config.json", "config.json"):
        if routes := _field(part / name, "structure"):
            inner = itertools.chain.from_iterable(routes.values())
            return [leaf for each in inner for leaf in _routed(part / each)]
    return [part]


def _modules(layers: Iterable[Any]) -> Iterator[Any]:
    """Yields an encoder's modules in order; for a router, the modules of each route."""
    for layer in layers:
        if hasattr(layer, "sub_modules"):
            for route in layer.sub_modules.values():
                yield from _modules(route)
        else:
            yield layer


def _require_kind(directory: Path, name: str) -> None:
    """Refuses models that score pairs of texts or give vectors of another kind, such as sparse ones."""
    kind = _field(directory / "config_sentence_transformers.json", "model_type")
    if kind is None and not (directory / "modules.json").is_file():
        heads = _field(directory / "config.json", "architectures") or []
        if any(str(head).endswith("ForSequenceClassification") for head in heads):
            kind = "cross-encoder or classifier"
    if kind not in (None, "SentenceTransformer"):
        raise UsageError(
            f"{EMBEDDER.flag}={name} is a {kind}, which gives a text no dense vector of its own; pass a sentence encoder"
        )


def _require_part(part: Path, name: str) -> None:
    """Refuses a module if its files show that it cannot be loaded."""
    for file in sorted(part.iterdir()) if part.is_dir() else ():
        if file.is_file():
            checkpoints.refuse_pointer(file, EMBEDDER)
    if (part / "adapter_config.json").is_file():
        raise UsageError(
            f"{EMBEDDER.flag}={name} is an adapter, not a model: merge it into its base with peft (merge_and_unload), "
            "and save that"
        )
    if _field(part / "config.json", "model_type"):
        checkpoints.load_config(part, name, EMBEDDER)


def _field(file: Path, name: str) -> Any:
    if not file.is_file():
        return None
    with checkpoints.refusing(f"{file} cannot be read", EMBEDDER, "of a sentence encoder"):
        return json.loads(file.read_bytes()).get(name)


def _require_tokens(module: Any, encoder: Any, name: str) -> None:
    tokenizer: Any = getattr(module, "tokenizer", None)
    checkpoints.require_vocabulary(checkpoints.words(tokenizer), name, EMBEDDER)
    try:
        num_rows = encoder.get_input_embeddings().weight.shape[0]
    except (
        NotImplementedError,
        AttributeError,
    ):  # some multimodal models do not expose their embeddings
        return
    checkpoints.fit_tokenizer(tokenizer, num_rows, name, EMBEDDER)
    if tokenizer.pad_token not in tokenizer.get_vocab():
        # Any token works, because padding is masked.
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)


def _require_static_tokens(module: Any, name: str) -> None:
    tokenizer = getattr(module, "tokenizer", None)
    if isinstance(tokenizer, tokenizers.Tokenizer):
        words = set(tokenizer.get_vocab(with_added_tokens=False))
        checkpoints.require_vocabulary(words, name, EMBEDDER)
        checkpoints.require_embedding(tokenizer.get_vocab(), module.num_embeddings, name, EMBEDDER)


def _known_dimension(model: SentenceTransformer) -> int | None:
    # The older name gives a warning in newer releases of sentence-transformers.
    new, old = "get_embedding_dimension", "get_sentence_embedding_dimension"
    dim = getattr(model, new if hasattr(model, new) else old)()
    return None if dim is None else int(dim)


def checked_dimension(name: str, asked: int | None, full_dim: int) -> int:
    """Decides the dimension of vectors: the requested one, or all of the encoder's dimensions.

    Raises:
      UsageError: If the encoder has fewer dimensions than requested.
    """
    if asked is not None and asked > full_dim:
        raise UsageError(
            f"{name} has {full_dim} dimensions, fewer than {asked}; lower --embedder_dim"
        )
    return asked or full_dim


def _limit_tokens(model: SentenceTransformer, max_tokens: int | None) -> int | None:
    """Lowers the model's limits to `max_tokens`, and returns the maximum number of tokens read from a text, None for all."""
    found: list[float] = []
    for module in _modules(model):
        # Layers after the encoder have no limit.
        if not hasattr(module, "max_seq_length"):
            continue
        limits = [n for n in (module.max_seq_length, max_tokens) if n is not None]
        limit = min(limits, default=math.inf)
        found.append(limit)
        if not math.isfinite(limit):
            continue
        if isinstance(tokenizer := module.tokenizer, tokenizers.Tokenizer):
            tokenizer.enable_truncation(int(limit))  # static embeddings have no limit to lower
        else:
            module.max_seq_length = int(limit)
    limit = max(found, default=math.inf)
    return int(limit) if math.isfinite(limit) else None
