"""Tensors in safetensors files, written and read one at a time."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO, Protocol

import torch

# Names of the stored dtypes in safetensors.
_NAMES = {
    torch.float16: "F16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


class Writable(Protocol):
    """A binary file."""

    def write(self, data: Any) -> int:
        """Writes all of `data`, bytes or a buffer."""


class TensorWriter:
    """Writes tensors one at a time; the safetensors library needs all of them at once, and copies them twice.

    Args:
      file: The file to write to.
      shapes: Shape of every tensor by name, in the order of writing.
      dtypes: Dtype of every tensor by name: a float or int64.
    """

    def __init__(
        self,
        file: Writable,
        shapes: Mapping[str, tuple[int, ...]],
        dtypes: Mapping[str, torch.dtype],
    ) -> None:
        entries: dict[str, dict[str, Any]] = {}
        end = 0
        for name, shape in shapes.items():
            start, end = end, end + math.prod(shape) * dtypes[name].itemsize
            entries[name] = {"dtype": _NAMES[dtypes[name]], "shape": list(shape)}
            entries[name]["data_offsets"] = [start, end]
        header = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
        # Spaces align the data to 8 bytes, as in files of the safetensors library.
        header += b" " * (-len(header) % 8)
        file.write(len(header).to_bytes(8, "little") + header)
        self._file = file
        # Reversed, so the next is popped from the end.
        self._left = [(name, tuple(shape), dtypes[name]) for name, shape in shapes.items()][::-1]

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Writes the next tensor, from any device.

        Raises:
          ValueError: If name, shape or dtype are not those of the next announced tensor.
        """
        expected = self._left.pop() if self._left else None
        if (name, tuple(tensor.shape), tensor.dtype) != expected:
            raise ValueError(
                f"{name}, {tensor.dtype} of {tuple(tensor.shape)}, comes where the file has {expected}"
            )
        if tensor.numel():  # an empty tensor has no buffer to write
            self._file.write(tensor.detach().cpu().contiguous().numpy().reshape(-1))


class TensorReader:
    """Reads some tensors of a file without fetching the others.

    Args:
      file: A seekable file in the safetensors format.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        size = int.from_bytes(file.read(8), "little")
        self._entries = json.loads(file.read(size))
        self._entries.pop("__metadata__", None)
        self._start = 8 + size

    @property
    def names(self) -> list[str]:
        """Names of all tensors, in the order of storage."""
        return sorted(self._entries, key=lambda name: self._entries[name]["data_offsets"])

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Reads tensors by name, to the CPU.

        Raises:
          KeyError: If a tensor is missing.
          EOFError: If the file is truncated.
        """
        return {name: self._read(self._entries[name]) for name in names}

    def _read(self, entry: Mapping[str, Any]) -> torch.Tensor:
        tensor = torch.empty(entry["shape"], dtype=_DTYPES[entry["dtype"]])
        left = tensor.view(-1).view(torch.uint8).numpy().data
        self._file.seek(self._start + entry["data_offsets"][0])
        while left:
            # A raw file may return fewer bytes than asked for.
            number = self._file.readinto(left)  # type: ignore[attr-defined]
            if not number:
                raise EOFError("a file of tensors ends before its last one")
            left = left[number:]
        return tensor


def write(file: Writable, tensors: Mapping[str, torch.Tensor]) -> None:
    """Writes named tensors, from any device, in their order within each dtype; wider dtypes come first, for alignment."""
    ordered = dict(sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize))
    shapes = {name: tuple(tensor.shape) for name, tensor in ordered.items()}
    writer = TensorWriter(file, shapes, {name: own.dtype for name, own in ordered.items()})
    for name, tensor in ordered.items():
        writer.write(name, tensor)


def read(file: BinaryIO) -> dict[str, torch.Tensor]:
    """Reads all tensors of a file, by name, to the CPU."""
    reader = TensorReader(file)
    return reader.read(reader.names)


def prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Puts "prefix/" before every name."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def with_prefix(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Selects the tensors whose name starts with "prefix/", and removes the prefix."""
    start = f"{prefix}/"
    return {name[len(start) :]: t for name, t in tensors.items() if name.startswith(start)}


def norm(tensors: Mapping[str, torch.Tensor]) -> float:
    """Computes the Euclidean norm over all tensors, summed in float64."""
    squares = (float(tensor.double().square().sum()) for tensor in tensors.values())
    return math.sqrt(math.fsum(squares))


def upper_triangle(matrix: torch.Tensor) -> torch.Tensor:
    """Takes the upper triangle of a symmetric matrix, row by row: [n, n] to [n (n + 1) / 2]."""
    return torch.cat([row[index:] for index, row in enumerate(matrix)])


def symmetric(triangle: torch.Tensor) -> torch.Tensor:
    """Rebuilds a symmetric matrix from its `upper_triangle`."""
    size = math.isqrt(2 * len(triangle))
    matrix = triangle.new_empty(size, size)
    for index, row in enumerate(torch.split(triangle, list(range(size, 0, -1)))):
        matrix[index, index:] = matrix[index:, index] = row
    return matrix


def add(
    left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Adds tensors by name.

    Raises:
      ValueError: If the names differ, because different layers were tracked.
    """
    if left.keys() != right.keys():
        raise ValueError(f"cannot add sums of {sorted(left)} to sums of {sorted(right)}")
    return {name: tensor + right[name] for name, tensor in left.items()}
