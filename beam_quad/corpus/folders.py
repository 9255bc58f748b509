"""Folders named `name=value`, as Hive, Spark and `datasets` write them: columns of all rows below."""

import re
import urllib.parse
from collections.abc import Sequence

_FOLDER = re.compile(r"([A-Za-z][\w.-]*)=(.*)", re.DOTALL)
# What Hive and Spark write for a value that is null.
_NULL = "__HIVE_DEFAULT_PARTITION__"


def is_column(folder: str) -> bool:
    """Tells whether the name of a folder is that of a column and its value."""
    return _FOLDER.fullmatch(folder) is not None


def columns_of(shard: str) -> dict[str, str | None]:
    """Gives the columns that the folders of a shard are named for, from the outermost in.

    A column of the file itself comes before one of that name. Values are strings: what they mean nothing says.

    Args:
      shard: Path of the shard, relative to the input root.
    """
    if "=" not in shard:
        return {}
    matches = map(_FOLDER.fullmatch, shard.split("/")[:-1])
    found = (match.groups() for match in matches if match)
    return {name: None if value == _NULL else urllib.parse.unquote(value) for name, value in found}


def above(parts: Sequence[str]) -> list[str]:
    """Leaves out, of the folders on the way to files, the last ones that are columns: their names belong to shards."""
    kept = list(parts)
    while kept and is_column(kept[-1]):
        kept.pop()
    return kept
