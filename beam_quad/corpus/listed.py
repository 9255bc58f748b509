"""Folders that list which of their files are data: those of `save_to_disk` in `datasets`, and of MDS."""

import json
import posixpath
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

from beam_quad.artifacts import files
from beam_quad.corpus import arrow, mds
from beam_quad.errors import UsageError

# `datasets` caches results beside the data they were made from.
_CACHE = re.compile(r"cache-\w+\.arrow")
# Files that describe the data of a folder or its subfolders, on the hub and on disk.
_ABOUT = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json")
# Files that list the data files of a folder.
_STATE, _INDEX = "state.json", "index.json"


def no_data(paths: Collection[str]) -> set[str]:
    """Returns the files that are not data: the lists themselves, and unlisted files in the same folder as listed ones.

    Args:
      paths: The files found. A list that is not among them has no effect, because files given by name are meant as data.

    Raises:
      UsageError: If a list cannot be read, or names a missing file.
    """
    found = set(paths)
    names = {path: posixpath.basename(path) for path in paths}
    left_out = {p for p, name in names.items() if name in _ABOUT or _CACHE.fullmatch(name)}
    for name, extensions, listed in (
        (_STATE, arrow.EXTENSIONS, _in_state),
        (_INDEX, mds.EXTENSIONS, _in_index),
    ):
        folders = {posixpath.dirname(path) for path in paths if extensions.search(path)}
        lists = sorted(found & {posixpath.join(folder, name) for folder in folders})
        for path, data in zip(lists, files.in_parallel(files.read_bytes, lists), strict=True):
            folder = posixpath.dirname(path)
            beside = {posixpath.basename(p) for p in found if posixpath.dirname(p) == folder}
            chosen = set(_chosen(path, data, listed, beside))
            others = {own for own in beside - chosen if extensions.search(own)} | {name}
            left_out |= found & {posixpath.join(folder, own) for own in others}
    return left_out


def _chosen(
    path: str, data: bytes, listed: Callable[[Any], list[list[str]]], beside: Collection[str]
) -> Iterator[str]:
    """Yields the files of a list; if a file has two forms, the first that exists."""
    try:
        wanted = listed(json.loads(data))
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: does not list the files of its folder; copy it anew") from error
    for forms in wanted:
        there = [name for name in forms if name in beside]
        if not there:
            raise UsageError(f"{path} lists {forms[0]}, which is not there; copy the folder anew")
        yield there[0]


def _in_state(stored: Any) -> list[list[str]]:
    return [[str(own["filename"])] for own in stored["_data_files"]]


def _in_index(stored: Any) -> list[list[str]]:
    # A shard exists uncompressed, compressed or, after a `StreamingDataset` has read it, both.
    return [
        [str(own[form]["basename"]) for form in ("raw_data", "zip_data") if own.get(form)]
        for own in stored["shards"]
    ]
