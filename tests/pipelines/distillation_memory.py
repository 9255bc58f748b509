"""Influence Distillation in memory, straight down the page; exact cosines by one backward pass for each text."""

import dataclasses

import numpy as np
import torch

from beam_quad import seeding
from beam_quad.distillation import KernelRidge, LandmarkDraw, weigh
from beam_quad.embedding import EmbedderSpec, load_embedder
from beam_quad.gradients import ProxySpec, load_proxy
from beam_quad.selection import allocate
from tests.pipelines.memory import read


@dataclasses.dataclass(frozen=True)
class Distilled:
    """What the pipeline should say of every example, in the order of `ids`."""

    ids: list[str]
    influence: np.ndarray
    is_landmark: np.ndarray
    takers: np.ndarray
    weights: np.ndarray


def distill(
    corpus: str,
    queries: dict[str, str],
    proxy_path: str,
    budget: int,
    num_landmarks: int,
    is_tokens: bool = True,
    seed: int = 0,
) -> Distilled:
    """Selects with plain gradients (`--curvature=identity`) of the attention projections and hashed embeddings."""
    proxy = load_proxy(ProxySpec(proxy_path, num_threads=1))
    texts, ids = read(corpus)
    keys = seeding.keys(ids)
    amounts = np.array([len(proxy.tokenizer(t)["input_ids"]) if is_tokens else 1 for t in texts])
    points = load_embedder(EmbedderSpec("hashing")).embed(texts).astype(np.float16)

    landmarks = LandmarkDraw.of(keys, seed, num_landmarks).contains(keys)
    targets = [
        np.mean([_gradient(proxy, text) for text in read(folder, is_query=True)[0]], axis=0)
        for folder in queries.values()
    ]
    rows = np.stack([_gradient(proxy, texts[i]) for i in np.flatnonzero(landmarks)])
    exact = _unit(rows) @ _unit(np.stack(targets)).T

    ridge = KernelRidge.fit(points[landmarks], exact, keys[landmarks], seed=seed)
    influence = ridge.predict(points, keys).astype(np.float32)
    takers = allocate(influence, keys, amounts, budget, list(queries), seed)
    return Distilled(ids, influence, landmarks, takers, weigh(influence, takers))


def _gradient(proxy: object, text: str) -> np.ndarray:
    """The gradient of a text's mean loss, over all attention projections."""
    model = proxy.model  # type: ignore[attr-defined]
    tracked = [p for name, p in model.named_parameters() if "self_attn" in name]
    for parameter in tracked:
        parameter.requires_grad_(True)
    tokens = torch.tensor([proxy.tokenizer(text)["input_ids"]])  # type: ignore[attr-defined]
    loss = model(input_ids=tokens, labels=tokens).loss
    gradients = torch.autograd.grad(loss, tracked)
    return torch.cat([g.flatten() for g in gradients]).double().numpy()


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
