"""Finds the files of an input by lists, braces, globs and folders, each file once; omitted files are reported."""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from beam_quad.artifacts import files
from beam_quad.artifacts.patterns import Search, expand_braces, has_glob, split_list
from beam_quad.corpus import formats, listed
from beam_quad.errors import UsageError

_log = logging.getLogger(__name__)
_NUM_NAMED = 3
# Reasons why a file is not read, with the log level and wording of each.
_PASSED_OVER = {
    "unknown": (logging.WARNING, "file", " of unknown extensions"),
    "hidden": (logging.INFO, "hidden file", " or folders"),
    "empty": (logging.WARNING, "empty file", ""),
    "not_listed": (logging.INFO, "file", " that their folders do not list as data"),
}


@dataclasses.dataclass(frozen=True)
class Found:
    """The files of an input.

    Attributes:
      infos: The files of known formats, sorted by path.
      origins: The flag and pattern that matched each path, for messages: `--input=in/*.jsonl`, or `--input` for a file's name.
      passed_over: Number of files found but not read, by reason.
    """

    infos: tuple[files.FileInfo, ...]
    origins: dict[str, str]
    passed_over: dict[str, int]


def find_files(patterns: Sequence[str], flag: str, is_query: bool) -> Found:
    """Finds the files that match patterns.

    Under a folder, or a glob without an extension, files of unknown formats are skipped, counted and logged. So are hidden and
    empty files, and files that a folder of `datasets` or MDS does not list as its data. A file found under two names, by
    links, is read once, and logged.

    Args:
      patterns: Globs, files and folders; each may be a list with commas.
      flag: The flag of the patterns, for errors.
      is_query: Whether `.txt` is a known format too.

    Raises:
      UsageError: If a pattern matches no file or names one with an unknown extension; if a link is broken; or if a path
        is unreadable or not a file.
    """
    infos: dict[str, files.FileInfo] = {}
    origins: dict[str, str] = {}
    passed_over: dict[str, set[str]] = {why: set() for why in _PASSED_OVER}
    singles = list(_single_patterns(patterns, flag, _exists))

    def find(given: str, pattern: str) -> tuple[list[files.FileInfo], list[str]]:
        hidden: list[str] = []
        with naming(f"{flag}={given}"):
            return files.find(pattern, with_hidden=False, hidden=hidden), hidden

    # Braces expand to up to 10,000 names, each of them a request.
    for (given, pattern), (matches, hidden) in zip(
        singles, files.in_parallel(find, *zip(*singles, strict=True)), strict=True
    ):
        origin = f"{flag}={given}"
        known = [info for info in matches if formats.has_format(info.path, is_query)]
        others = [info.path for info in matches if not formats.has_format(info.path, is_query)]
        with naming(flag if given == pattern else origin):
            _check_found(pattern, known, others, is_query)
        passed_over["unknown"].update(others)
        passed_over["hidden"].update(hidden)
        for info in known:
            infos[info.path] = info
            is_by_name = info.path == files.absolute(given)
            origins.setdefault(info.path, flag if is_by_name else origin)
    by_pattern = {path for path, origin in origins.items() if origin != flag}
    with naming(flag):
        passed_over["not_listed"] = listed.no_data(by_pattern)
    for path in passed_over["not_listed"]:
        del infos[path]
    once = _once(sorted(infos.values()), flag)
    for info in once:
        with naming(origins[info.path]):
            files.check_readable(info.path)
    empty = {info.path for info in once if info.size_bytes == 0 and info.path in by_pattern}
    passed_over["empty"] = empty
    once = [info for info in once if info.path not in empty]
    if not once:
        raise UsageError(
            f"{flag}: every file that it finds is empty, or tells of others; check what wrote them"
        )
    _tell(passed_over, flag)
    return Found(
        tuple(once), origins, {why: len(paths) for why, paths in passed_over.items() if paths}
    )


def _tell(passed_over: Mapping[str, Collection[str]], flag: str) -> None:
    for why, paths in passed_over.items():
        if paths:
            level, noun, rest = _PASSED_OVER[why]
            names = files.printable(", ".join(sorted(paths)[:_NUM_NAMED]))
            count = _count(paths, noun)
            _log.log(level, "%s: passed over %s%s, such as %s", flag, count, rest, names)


@contextlib.contextmanager
def naming(origin: str) -> Iterator[None]:
    """Prefixes the message of a `UsageError` with the flag and the pattern."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{origin}: {error}") from error


def _single_patterns(
    patterns: Sequence[str], flag: str, exists: Callable[[str], bool]
) -> Iterator[tuple[str, str]]:
    """Yields each expansion of lists and braces, after the pattern as given."""
    is_empty = True
    for given in patterns:
        for single in split_list(given, exists):
            is_empty = False
            # An existing file with braces in its name is taken literally.
            if "{" in single and not exists(single):
                with naming(flag):
                    expanded = expand_braces(single)
                yield from ((single, pattern) for pattern in expanded)
            else:
                yield single, single
    if is_empty:
        raise UsageError(f"{flag} is empty; pass a glob, a file or a folder")


def _exists(path: str) -> bool:
    return _is_there(path) if files.is_local(path) else files.exists(path)


def _is_there(path: str) -> bool:
    return files.is_local(path) and os.path.lexists(path)


def _check_found(
    pattern: str,
    known: Sequence[files.FileInfo],
    others: Sequence[str],
    is_query: bool,
) -> None:
    path = files.absolute(pattern)
    for other in others:
        is_asked_for = other == path or (has_glob(path) and Search.of(path).asks_for(other))
        # Raises, as the extension has no format: whoever names a file, or nothing but such files, means them to be
        # read.
        if is_asked_for or not known:
            formats.format_of(other, is_query)
    if not known:
        raise UsageError(f"{pattern} matches no file; {_hint(pattern)}")


def _hint(pattern: str) -> str:
    below = f"{pattern.rstrip('/')}/**"
    if has_glob(pattern) and files.find(below, with_hidden=False):
        return f"it matches folders: write {below}"
    return (
        "check the path; a comma in a name is written [,]" if "," in pattern else "check the path"
    )


def _once(infos: Sequence[files.FileInfo], flag: str) -> list[files.FileInfo]:
    """Keeps one name of each file: its real name if that was found, else the first."""
    folders: dict[str, str] = {}
    names: dict[str, files.FileInfo] = {}
    twice: list[str] = []
    for info in infos:
        real = _real(info.path, folders)
        other = names.setdefault(real, info)
        if other is not info:
            if info.path == real:
                names[real], info = info, other
            twice.append(f"{info.path} (which is {real})")
    if twice:
        _log.warning(
            "%s: %s by links of files that are read under another one, such as %s",
            flag, _count(twice, "name"), files.printable(twice[0]),
        )  # fmt: skip
    return sorted(names.values())


def _count(things: Collection[str], noun: str) -> str:
    return f"{len(things):,} {noun}{'s' * (len(things) != 1)}"


def _real(path: str, folders: dict[str, str]) -> str:
    """Resolves the links of a path; `folders` caches resolved folders."""
    if not files.is_local(path):
        return path
    if os.path.islink(path):
        return os.path.realpath(path)
    folder, _, name = path.rpartition("/")
    if folder not in folders:
        folders[folder] = os.path.realpath(folder or "/")
    return os.path.join(folders[folder], name)


def finder_of(patterns: Sequence[str], folder: str, names: Iterable[str]) -> str | None:
    """Returns a pattern that would match files written to a folder, without any request.

    Args:
      patterns: As `find_files` takes them.
      folder: The folder, which need not exist.
      names: Names of the written files, relative to the folder.

    Returns:
      The pattern; None if no pattern matches.
    """
    written = [files.join(_place(folder), name) for name in names]
    for given, pattern in _single_patterns(patterns, "the input", _is_there):
        path = files.absolute(pattern)
        search = Search.of(path) if has_glob(path) and not _is_there(path) else Search(path)
        search = dataclasses.replace(search, folder=_place(search.folder).rstrip("/"))
        below = (path for path in written if path.startswith(search.folder + "/"))
        if any(search.matches(path) and not search.is_hidden(path) for path in below):
            return given
    return None


def _place(folder: str) -> str:
    return os.path.realpath(folder) if files.is_local(folder) else files.absolute(folder)
