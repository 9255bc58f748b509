"""Models of a few thousand parameters and texts of numbers, for tests of the rooms that use a proxy."""

from collections.abc import Sequence

import numpy as np
import tokenizers
import torch
import transformers
from tokenizers import models, pre_tokenizers

from beam_quad.gradients import Proxy

# Float64 against float64 in another order of summation, and float32 against float64.
EXACT = {"rtol": 1e-9, "atol": 1e-12}
CLOSE = {"rtol": 1e-4, "atol": 1e-6}
VOCABULARY = 32
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
_CONFIGS = {
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=16,
        n_layer=2,
        n_head=4,
        n_positions=64,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**_SIZES),
    "llama": lambda: transformers.LlamaConfig(**_GROUPED),
    "mistral": lambda: transformers.MistralConfig(**_GROUPED),
    "qwen2": lambda: transformers.Qwen2Config(**_GROUPED),
    "qwen3": lambda: transformers.Qwen3Config(**_GROUPED, head_dim=4),
    "gemma2": lambda: transformers.Gemma2Config(**_GROUPED, head_dim=4),
    "gemma3": lambda: transformers.Gemma3TextConfig(**_GROUPED, head_dim=4),
    "phi3": lambda: transformers.Phi3Config(**_GROUPED, rms_norm_eps=1e-6),
    "olmo2": lambda: transformers.Olmo2Config(**_GROUPED),
    "mixtral": lambda: transformers.MixtralConfig(**_GROUPED, num_local_experts=4),
}
MIXTURES = ("mixtral",)
FAMILIES = tuple(name for name in _CONFIGS if name not in MIXTURES)


def model(family: str = "llama", dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    """Makes a model with random weights and, so that biases and norms matter, random biases and norms too."""
    torch.manual_seed(0)
    made = transformers.AutoModelForCausalLM.from_config(_CONFIGS[family]())
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return made.to(dtype)


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Makes a tokenizer whose words are the numbers below the vocabulary's size."""
    words = models.WordLevel({str(i): i for i in range(VOCABULARY)}, unk_token="0")
    made = tokenizers.Tokenizer(words)
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made)


def proxy(
    family: str = "llama",
    dtype: torch.dtype = torch.float64,
    context_length: int = 16,
    max_windows: int = 4,
    max_batch_tokens: int = 64,
) -> Proxy:
    return Proxy(model(family, dtype), tokenizer(), context_length, max_windows, max_batch_tokens)


def texts(lengths: Sequence[int], seed: int = 0) -> list[str]:
    """Draws texts of so many tokens."""
    draws = np.random.default_rng(seed)
    return [" ".join(map(str, draws.integers(0, VOCABULARY, length))) for length in lengths]
