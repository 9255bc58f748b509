import io

import pytest
import safetensors.torch
import torch

from beam_quad.scoring.vectors import load_vectors, write_vectors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vectors_written_tensor_by_tensor_are_safetensors_to_the_byte(dtype):
    groups = ["math", 'Früh "1":0', "a\\b\x1f\x7f😀", "Z"]
    blocks = {"b.10": (3, 5), "b.9/q": (1, 2), "B": (7, 1)}
    vectors = {g: {b: torch.randn(s, dtype=dtype) for b, s in blocks.items()} for g in groups}
    vectors["math"]["B"] = torch.randn(1, 7, dtype=dtype).T
    file = io.BytesIO()
    write_vectors(file, vectors)
    named = {
        f"{number:04d}:{group}/{block}": tensor.contiguous()
        for number, (group, own) in enumerate(vectors.items())
        for block, tensor in own.items()
    }
    assert file.getvalue() == safetensors.torch.save(named)
    assert list(load_vectors(file.getvalue())) == groups
