"""The files of an output: how they are named, and what is known of one that is written."""

import dataclasses
import posixpath

from beam_quad.records import OUTPUT_FORMATS

# What comes with each part of Megatron.
INDEX_ENDING = ".idx"
# What lists the parts of MDS.
MDS_INDEX = "index.json"


@dataclasses.dataclass(frozen=True)
class WrittenPart:
    """A file of the output.

    Attributes:
      path: Where it is stored.
      sha256: Of its bytes, 64 hexadecimal digits.
      num_rows: Its rows; none of what comes with a part, or lists them.
      size_bytes: Its size.
    """

    path: str
    sha256: str
    num_rows: int
    size_bytes: int


def part_name(index: int, num_parts: int, output_format: str = "parquet") -> str:
    """Names a part, as `part-00000-of-00128.parquet`."""
    ending = OUTPUT_FORMATS.get(output_format, output_format)
    return f"part-{index:05d}-of-{num_parts:05d}.{ending}"


def companion(path: str) -> str | None:
    """Names the file that comes with a part; None if none does."""
    stem, ending = posixpath.splitext(path)
    return stem + INDEX_ENDING if ending == ".bin" else None


def is_part(path: str) -> bool:
    """Tells whether a file among the selected ones is a part, not what comes with one."""
    name = posixpath.basename(path)
    return name.startswith("part-") and not name.endswith(INDEX_ENDING)


def written_names(output_format: str) -> tuple[str, ...]:
    """Names files of an output that an input may find, relative to its folder."""
    parts = (part_name(0, 1, output_format), part_name(0, 1))
    return (
        f"selected/{parts[0]}",
        f"selected/{MDS_INDEX}",
        f"rejected/{parts[1]}",
        "manifest.json",
    )
