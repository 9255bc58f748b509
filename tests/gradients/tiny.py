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
# Windows of attention shorter than the texts, so that they show.
_SLIDING = {**_GROUPED, "sliding_window": 8}
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
    "mistral": lambda: transformers.MistralConfig(**_SLIDING),
    "qwen2": lambda: transformers.Qwen2Config(**_GROUPED),
    "qwen3": lambda: transformers.Qwen3Config(**_GROUPED, head_dim=4),
    "gemma2": lambda: transformers.Gemma2Config(**_SLIDING, head_dim=4),
    "gemma3": lambda: transformers.Gemma3TextConfig(**_SLIDING, head_dim=4),
    "phi3": lambda: transformers.Phi3Config(**_GROUPED, rms_norm_eps=1e-6),
    "olmo2": lambda: transformers.Olmo2Config(**_GROUPED),
    # Queries, keys and values are clipped in place.
    "olmo": lambda: transformers.OlmoConfig(**_GROUPED, clip_qkv=0.5),
    "smollm3": lambda: transformers.SmolLM3Config(**_GROUPED),
    # 2-D inputs of fc1, next to the attention.
    "opt": lambda: transformers.OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=24,
        max_position_embeddings=64,
        word_embed_proj_dim=16,
        activation_function="gelu",  # not ReLU, whose kinks spoil finite differences
    ),
    "mpt": lambda: transformers.MptConfig(
        vocab_size=VOCABULARY, d_model=16, n_layers=2, n_heads=4, max_seq_len=64, expansion_ratio=2
    ),
    "glm4": lambda: transformers.Glm4Config(**_GROUPED, head_dim=4),
    # A head with a bias, tied to the embedding.
    "phi": lambda: transformers.PhiConfig(**_GROUPED, tie_word_embeddings=True),
    # Attention and MLP read the same tensor.
    "cohere": lambda: transformers.CohereConfig(**_GROUPED),
    "mixtral": lambda: transformers.MixtralConfig(**_GROUPED, num_local_experts=4),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(
        **_GROUPED, head_dim=4, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8
    ),
    "olmoe": lambda: transformers.OlmoeConfig(**_GROUPED, num_experts=4, num_experts_per_tok=2),
    # 4-D inputs of kv_b_proj.
    "deepseek_v3": lambda: transformers.DeepseekV3Config(
        **_SIZES,
        num_key_value_heads=4,
        moe_intermediate_size=8,
        n_routed_experts=4,
        n_group=2,
        topk_group=1,
        num_experts_per_tok=2,
        kv_lora_rank=8,
        q_lora_rank=None,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=4,
        first_k_dense_replace=0,
    ),
}
MIXTURES = ("mixtral", "qwen3_moe", "olmoe", "deepseek_v3")
FAMILIES = tuple(name for name in _CONFIGS if name not in MIXTURES)


def model(family: str = "llama", dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    """Makes a model with random weights and, so that biases and norms matter, random biases and norms too."""
    torch.manual_seed(0)
    made = transformers.AutoModelForCausalLM.from_config(_CONFIGS[family]())
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return made.to(dtype)


def tokenizer(vocabulary: int = VOCABULARY) -> transformers.PreTrainedTokenizerFast:
    """Makes a tokenizer whose words are the numbers below the vocabulary's size."""
    words = models.WordLevel({str(i): i for i in range(vocabulary)}, unk_token="0")
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


def texts(lengths: Sequence[int], seed: int = 0, vocabulary: int = VOCABULARY) -> list[str]:
    """Draws texts of so many tokens."""
    draws = np.random.default_rng(seed)
    return [" ".join(map(str, draws.integers(0, vocabulary, length))) for length in lengths]
