"""Folders that say themselves which of their files are data: those of `save_to_disk` of `datasets`, and of MDS."""

import json
import posixpath
import re
from collections.abc import Collection, Iterator
from typing import Any

from beam_quad.artifacts import files
from beam_quad.corpus import arrow
from beam_quad.errors import UsageError

# Results that `datasets` keeps beside the data they were made of.
_CACHE = re.compile(r"cache-\w+\.arrow")
# What lists the files of a folder, and what tells of them or of the folders below.
_STATE, _ABOUT, _SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"


def no_data(paths: Collection[str]) -> set[str]:
    """Tells which files are no data: the lists themselves, and what lies beside listed files and is not listed.

    Args:
      paths: The files that were found. A list that is not among them does not count: whoever names files means them.

    Raises:
      UsageError: If a list cannot be read, or names a file that is not there.
    """
    found = set(paths)
    folders = {posixpath.dirname(path) for path in paths if arrow.EXTENSIONS.search(path)}
    lists = sorted(path for path in map(_state, folders) if path in found)
    left_out = {path for path in paths if _CACHE.fullmatch(posixpath.basename(path))}
    for path, data in zip(lists, files.in_parallel(files.read_bytes, lists), strict=True):
        folder = posixpath.dirname(path)
        listed = {posixpath.join(folder, name) for name in _names(path, data)}
        if missing := sorted(listed - found):
            raise UsageError(
                f"{path} lists {posixpath.basename(missing[0])}, which is not there; copy the folder anew"
            )
        beside = {own for own in found if posixpath.dirname(own) == folder} - listed
        left_out |= {
            own for own in beside if arrow.EXTENSIONS.search(own) or own.endswith((_STATE, _ABOUT))
        }
        left_out |= found & {posixpath.join(posixpath.dirname(folder), _SPLITS)}
    return left_out


def _state(folder: str) -> str:
    return posixpath.join(folder, _STATE)


def _names(path: str, data: bytes) -> Iterator[str]:
    try:
        stored: Any = json.loads(data)
        yield from [str(own["filename"]) for own in stored["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: does not list the files of its folder; copy it anew") from error
