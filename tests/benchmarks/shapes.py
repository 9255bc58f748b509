"""Shapes of proxies that are priced and timed; nothing is downloaded."""

import transformers

# Those of SmolLM2-135M, Sheared-LLaMA-1.3B and Llama-2-7B.
MODELS = {
    "135M": transformers.LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
    ),
    "1.3B": transformers.LlamaConfig(
        vocab_size=32000, hidden_size=2048, intermediate_size=5504, num_hidden_layers=24,
        num_attention_heads=16,
    ),
    "7B": transformers.LlamaConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
        num_attention_heads=32,
    ),
}  # fmt: skip
