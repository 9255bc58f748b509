"""The files of an output: their names, and the description of a written file."""

import dataclasses
import posixpath

from beam_quad.records import OUTPUT_FORMATS

# Each part of Megatron has a companion file with this extension.
INDEX_ENDING = ".idx"
# The index of the parts of MDS.
MDS_INDEX = "index.json"


@dataclasses.dataclass(frozen=True)
class WrittenPart:
    """A file of the output.

    Attributes:
      path: Path of the file.
      sha256: Hash of its bytes, 64 hexadecimal digits.
      num_rows: Number of rows; 0 for a companion file or an index.
      size_bytes: Size of the file.
    """

    path: str
    sha256: str
    num_rows: int
    size_bytes: int


def part_name(index: int, num_parts: int, output_format: str = "parquet") -> str:
    """Names a part, for example `part-00000-of-00128.parquet`."""
    ending = OUTPUT_FORMATS.get(output_format, output_format)
    return f"part-{index:05d}-of-{num_parts:05d}.{ending}"


def companion(path: str) -> str | None:
    """Names the companion file of a part; None if it has none."""
    stem, ending = posixpath.splitext(path)
    return stem + INDEX_ENDING if ending == ".bin" else None


def is_part(path: str) -> bool:
    """Tells whether a file of the selection is a part, not a companion or an index."""
    name = posixpath.basename(path)
    return name.startswith("part-") and not name.endswith(INDEX_ENDING)


def written_names(output_format: str) -> tuple[str, ...]:
    """Names the files of an output that an input pattern may match, relative to its folder."""
    parts = (part_name(0, 1, output_format), part_name(0, 1))
    return (
        f"selected/{parts[0]}",
        f"selected/{MDS_INDEX}",
        f"rejected/{parts[1]}",
        "manifest.json",
    )
