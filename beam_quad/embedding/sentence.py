"""Sentence encoders, through sentence-transformers."""

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

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

# Texts per micro-batch; halved along the ladder when a GPU's memory runs out. A CPU gains nothing from larger ones.
_LADDER = {"cpu": (32,), "cuda": (256, 128, 64, 32, 16, 8)}
# Characters per token beyond which a text is cut before it is tokenised: English has about 4.5, and the tail of a
# book need not be tokenised to be thrown away.
_CHARACTERS_PER_TOKEN = 32


class SentenceEmbedder:
    """Embeds texts with a sentence encoder.

    Micro-batches have a fixed size and are cut from the texts of one call sorted by length and text, so that the
    result of a call does not depend on other calls, nor on the order of its texts. (Another composition of a
    micro-batch changes the last bits, about 1e-7.)

    Attributes:
      dim: Dimension of the vectors.
      num_halvings: How often a micro-batch was halved because the device's memory ran out.
    """

    def __init__(self, directory: Path, spec: EmbedderSpec) -> None:
        """Loads the encoder and pins the number of threads.

        Raises:
          DeviceError: If the spec's device is not there.
          UsageError: If the encoder cannot be loaded, if its weights or its tokenizer do not fit it, or if it has fewer
            dimensions than the spec asks for.
        """
        device = _checked_device(spec.device)
        if spec.num_threads is not None:
            torch.set_num_threads(spec.num_threads)
        self._model = _load(directory, spec, {"device": str(device)})
        self._prompt = spec.prompt
        self._ladder = _LADDER.get(device.type, _LADDER["cpu"])
        limit = _limit_tokens(self._model, spec.max_tokens)
        self._max_characters = None if limit is None else limit * _CHARACTERS_PER_TOKEN
        self.num_halvings = 0
        self.dim = _dimension(spec, int(self._encode(["dimension"]).shape[1]))

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds texts, float32 [num_texts, dim], unit rows, or 0 for no finite vector; see `Embedder.embed`."""
        if not texts:
            return np.zeros((0, self.dim), np.float32)
        cut = [text[: self._max_characters] for text in texts]
        order = sorted(range(len(cut)), key=lambda i: (len(cut[i]), cut[i]))
        vectors = np.empty((len(cut), self.dim), np.float32)
        vectors[order] = self._encode([cut[i] for i in order])[:, : self.dim]
        return unit_rows(vectors)

    def _encode(self, texts: list[str]) -> np.ndarray:
        for batch_size in self._ladder[:-1]:
            try:
                return self._encode_in_batches(texts, batch_size)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self.num_halvings += 1
                torch.cuda.empty_cache()
        return self._encode_in_batches(texts, self._ladder[-1])

    def _encode_in_batches(self, texts: list[str], batch_size: int) -> np.ndarray:
        return np.asarray(
            self._model.encode(
                texts, prompt=self._prompt, batch_size=batch_size, show_progress_bar=False
            ),
            np.float32,
        )


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
    """Reads an encoder's costs off its shapes, and refuses what would not load.

    Twice the encoder's parameters for each token, its tables of embeddings aside; attention is left out.

    Args:
      directory: Where it is stored.
      spec: Names it.

    Raises:
      UsageError: As `SentenceEmbedder`, as far as it can be told without the weights.
    """
    model = _load(directory, spec, {})
    # Some modules of images and texts do not know their dimension before they have embedded something.
    dim = _known_dimension(model)
    dim = SentenceEmbedder(directory, spec).dim if dim is None else _dimension(spec, dim)
    tables = (nn.Embedding, nn.EmbeddingBag)
    modules = [m for m in model.modules() if not isinstance(m, tables)]
    entries = sum(p.numel() for m in modules for p in m.parameters(recurse=False))
    return EmbedderCosts(dim, _limit_tokens(model, spec.max_tokens), token_flops=2.0 * entries)


def _checked_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"no device {name!r}: pass cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"no device {name!r} for the embedder here; pass --device=cpu")
    return device


def _load(directory: Path, spec: EmbedderSpec, where: dict[str, str]) -> SentenceTransformer:
    """Loads an encoder on a device, or without its weights if none is named."""
    _require_kind(directory, spec.name)
    for part in _parts(directory):
        _require_part(part, spec.name)
    meta = {} if where else {"device_map": "meta"}
    no_encoder = f"{directory} does not load as a sentence encoder"
    with checkpoints.refusing(no_encoder, EMBEDDER, "of a sentence encoder"):
        model = SentenceTransformer(
            str(directory),
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={
                "use_safetensors": True,
                "dtype": torch.float32,
                # Looked at below, by name.
                "ignore_mismatched_sizes": True,
                # What the publisher's machine had may not be installed here.
                "attn_implementation": None,
                **meta,
            },
            **where,
        ).eval()
    for part, module in zip(_parts(directory), _modules(model), strict=False):
        wrapped = (m for m in module.modules() if isinstance(m, transformers.PreTrainedModel))
        if (encoder := next(wrapped, None)) is not None:
            checkpoints.load_empty(encoder, part, spec.name, EMBEDDER)
            _require_tokens(module, encoder, spec.name)
        _require_static_tokens(module, spec.name)
    with checkpoints.refusing(no_encoder, EMBEDDER, "of an encoder that takes plain texts"):
        # A router may take none without the name of a route.
        getattr(model, "preprocess" if hasattr(model, "preprocess") else "tokenize")(["text"])
    return model


def _parts(directory: Path) -> list[Path]:
    """Lists the folders of an encoder's modules as `_modules` lists these."""
    index = directory / "modules.json"
    if not index.is_file():
        return [directory]
    with checkpoints.refusing(f"{index} cannot be read", EMBEDDER, "of a sentence encoder"):
        paths = [directory / module["path"] for module in json.loads(index.read_bytes())]
    return [part for path in paths for part in _routed(path)]


def _routed(part: Path) -> list[Path]:
    # The older name is of models that were saved when a router was called Asym.
    for name in ("router_config.json", "config.json"):
        if routes := _field(part / name, "structure"):
            inner = itertools.chain.from_iterable(routes.values())
            return [leaf for each in inner for leaf in _routed(part / each)]
    return [part]


def _modules(layers: Iterable[Any]) -> Iterator[Any]:
    """Gives an encoder's modules in order; for a router those of each route."""
    for layer in layers:
        if hasattr(layer, "sub_modules"):
            for route in layer.sub_modules.values():
                yield from _modules(route)
        else:
            yield layer


def _require_kind(directory: Path, name: str) -> None:
    """Refuses models of pairs of texts, and of vectors of another kind."""
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
    """Refuses a module whose files tell that it cannot be loaded."""
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
    except (NotImplementedError, AttributeError):  # not every model of images and texts says
        return
    checkpoints.fit_tokenizer(tokenizer, num_rows, name, EMBEDDER)
    if tokenizer.pad_token not in tokenizer.get_vocab():
        # Any token will do: it is masked.
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)


def _require_static_tokens(module: Any, name: str) -> None:
    tokenizer = getattr(module, "tokenizer", None)
    if isinstance(tokenizer, tokenizers.Tokenizer):
        words = set(tokenizer.get_vocab(with_added_tokens=False))
        checkpoints.require_vocabulary(words, name, EMBEDDER)
        checkpoints.require_embedding(tokenizer.get_vocab(), module.num_embeddings, name, EMBEDDER)


def _known_dimension(model: SentenceTransformer) -> int | None:
    # The older name warns in newer releases.
    new, old = "get_embedding_dimension", "get_sentence_embedding_dimension"
    dim = getattr(model, new if hasattr(model, new) else old)()
    return None if dim is None else int(dim)


def _dimension(spec: EmbedderSpec, full_dim: int) -> int:
    if spec.dim is not None and spec.dim > full_dim:
        raise UsageError(
            f"{spec.name} has {full_dim} dimensions, fewer than {spec.dim}; lower --embedder_dim"
        )
    return spec.dim or full_dim


def _limit_tokens(model: SentenceTransformer, max_tokens: int | None) -> int | None:
    """Lowers the model's limits to `max_tokens`; returns the most tokens that it reads of a text, None for all."""
    found: list[float] = []
    for module in _modules(model):
        # Of a layer behind the encoder there is no limit.
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
