import io

import pytest
import safetensors.torch
import torch

from beam_quad.gradients.tracked import Block
from beam_quad.scoring import tensors
from beam_quad.scoring.vectors import VectorWriter, load_vectors, write_vectors

GROUPS = ["math", 'Früh "1":0', "a\\b\x1f\x7f😀", "Z"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vectors_written_tensor_by_tensor_are_what_the_library_of_safetensors_reads(dtype):
    blocks = {"b.10": (3, 5), "b.9/q": (1, 2), "B": (7, 1)}
    vectors = {g: {b: torch.randn(s, dtype=dtype) for b, s in blocks.items()} for g in GROUPS}
    vectors["math"]["B"] = torch.randn(1, 7, dtype=dtype).T
    file = io.BytesIO()
    write_vectors(file, vectors)
    found = safetensors.torch.load(file.getvalue())
    assert len(found) == len(GROUPS) * len(blocks)
    for number, (group, own) in enumerate(vectors.items()):
        for block, tensor in own.items():
            torch.testing.assert_close(
                found[f"{number:04d}:{group}/{block}"], tensor, rtol=0, atol=0
            )
    file.seek(0)
    assert list(load_vectors(file)) == GROUPS


def test_vectors_written_as_they_are_made_are_those_written_at_once():
    blocks = [Block(name, name, 2, 3, False, 1, 0, 3) for name in ("q", "k", "o")]
    vectors = {group: {b.name: torch.randn(b.shape) for b in blocks} for group in GROUPS}
    stacks = [blocks[:2], blocks[2:]]
    file = io.BytesIO()
    writer = VectorWriter(file, GROUPS, stacks)
    for stack in stacks:
        for group, own in vectors.items():
            writer.write(group, {block.name: own[block.name] for block in stack})
    file.seek(0)
    found = load_vectors(file)
    assert list(found) == GROUPS
    for group, own in vectors.items():
        for name, vector in own.items():
            assert torch.equal(found[group][name], vector)


def test_a_tensor_that_comes_out_of_its_order_is_refused():
    writer = tensors.TensorWriter(
        io.BytesIO(), {"a": (1,), "b": (1,)}, {"a": torch.float32, "b": torch.float32}
    )
    with pytest.raises(ValueError, match=r"b, torch.float32 of \(1,\), comes where"):
        writer.write("b", torch.zeros(1))


class Counted(io.BytesIO):
    """A file that counts what is read of it."""

    num_read = 0

    def readinto(self, buffer):
        number = super().readinto(buffer)
        self.num_read += number
        return number


def test_of_a_file_no_more_is_read_than_is_asked_for():
    named = {
        "large": torch.randn(1000),
        "counts": torch.tensor([3]),
        "half": torch.randn(3).half(),
        "none": torch.zeros(0, 4),
    }
    file = Counted()
    tensors.write(file, named)
    file.seek(0)
    reader = tensors.TensorReader(file)
    assert reader.names[0] == "counts"  # the widest comes first, and is aligned
    found = reader.read(["counts", "half", "none"])
    assert file.num_read == 8 + 6
    assert all(torch.equal(found[name], named[name]) for name in found)
    with pytest.raises(EOFError):
        tensors.read(io.BytesIO(file.getvalue()[:-1]))
