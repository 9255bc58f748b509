"""Folders named `name=value`, as written by Hive, Spark and `datasets`: columns of all rows below them."""

import re
import urllib.parse
from collections.abc import Sequence

_FOLDER = re.compile(r"([A-Za-z][\w.-]*)=(.*)", re.DOTALL)
# Hive and Spark write this for a null value.
_NULL = "__HIVE_DEFAULT_PARTITION__"


def is_column(folder: str) -> bool:
    """Tells whether a folder's name has the form `name=value`."""
    return _FOLDER.fullmatch(folder) is not None


def columns_of(shard: str) -> dict[str, str | None]:
    """Returns the columns named by the folders of a shard, outermost first.

    A column of the file takes precedence over a folder's column of that name. Values are strings, since folders state no type.

    Args:
      shard: Path of the shard, relative to the input root.
    """
    if "=" not in shard:
        return {}
    matches = map(_FOLDER.fullmatch, shard.split("/")[:-1])
    found = (match.groups() for match in matches if match)
    return {name: None if value == _NULL else urllib.parse.unquote(value) for name, value in found}


def above(parts: Sequence[str]) -> list[str]:
    """Drops the trailing `name=value` folders of a path, because they belong to the names of shards."""
    kept = list(parts)
    while kept and is_column(kept[-1]):
        kept.pop()
    return kept
