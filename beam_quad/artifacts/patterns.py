"""The meaning of input patterns: lists with commas, braces, globs, and hidden names."""

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator

from beam_quad.errors import UsageError

# Most Linux file systems have this folder at their root, readable only by root.
LOST_AND_FOUND = "lost+found"
_GLOB = re.compile(r"[*?\[]")
_EXTENSION = re.compile(r"\.\w[\w.]*$")
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")
_MAX_ALTERNATIVES = 10_000
_NUMBER = re.compile(r"[0-9]+")
# `part-00000-of-00031.jsonl.bz2`.
_FOLDED_NUMBERS = 3
# Characters with a meaning in a pattern; a name that has any, such as one folded already, is not folded.
_SPECIAL = re.compile(r"[*?\[\]{},]")
# A name with more commas than this counts as a list.
_MAX_COMMAS = 8


def has_glob(path: str) -> bool:
    """Tells whether a path contains `*`, `?` or `[`."""
    return _GLOB.search(path) is not None


def split_list(text: str, exists: Callable[[str], bool]) -> list[str]:
    """Splits a list at its commas, except commas in braces, in brackets and in names of existing files.

    Args:
      text: Patterns separated by commas.
      exists: Tells whether a file or folder has exactly this name; called only if a comma could be part of the name.

    Returns:
      The non-empty patterns, in order.
    """
    parts = list(_parts(text))
    found: list[str] = []
    while parts:
        count = next(
            n for n in range(min(len(parts), _MAX_COMMAS), 0, -1) if _is_one(parts[:n], exists)
        )
        name = ",".join(parts[:count])
        found.append(name if count > 1 or _is_padded_name(name, exists) else name.strip())
        parts = parts[count:]
    return [name for name in found if name]


def _is_one(parts: list[str], exists: Callable[[str], bool]) -> bool:
    if len(parts) == 1:
        return True
    # The name of an object never contains another URL.
    return not any("://" in part for part in parts[1:]) and exists(",".join(parts))


def _is_padded_name(name: str, exists: Callable[[str], bool]) -> bool:
    return name != name.strip() and bool(name.strip()) and exists(name)


def _parts(text: str) -> Iterator[str]:
    start = at = 0
    while at < len(text):
        if text[at] == ",":
            yield text[start:at]
            start = at + 1
        at = max(at, _closing_brace(text, at), _closing_bracket(text, at)) + 1
    yield text[start:]


def _closing_brace(text: str, at: int) -> int:
    """Finds the brace that closes the one at a position; -1 if there is no such pair."""
    if text[at] != "{":
        return -1
    depth = 0
    for i in range(at, len(text)):
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return i
    return -1


def _closing_bracket(text: str, at: int) -> int:
    """Finds the bracket that closes the one at a position, as in `[!]]`; -1 if there is no such pair."""
    if text[at] != "[":
        return -1
    # A `]` directly after `[` or `[!` is part of the class, as in shells.
    first = at + 1 + (text[at + 1 : at + 2] == "!")
    end = text.find("]", first + 1)
    # A class matches one character of a name and never a `/`.
    return -1 if "/" in text[at:end] else end


def expand_braces(pattern: str) -> list[str]:
    """Expands braces as shells do: `{a,b}`, `{00..31}`, also nested.

    Raises:
      UsageError: If there are more than 10,000 alternatives.
    """
    expanded = list(itertools.islice(_expanded(pattern), _MAX_ALTERNATIVES + 1))
    if len(expanded) > _MAX_ALTERNATIVES:
        raise UsageError(
            f"{pattern}: its braces stand for more than {_MAX_ALTERNATIVES:,} names; write * for some"
        )
    return expanded


def _expanded(pattern: str) -> Iterator[str]:
    for start in range(len(pattern)):
        end = _closing_brace(pattern, start)
        options = _options(pattern[start + 1 : end]) if end > 0 else None
        if options is not None:
            for option, rest in itertools.product(options, list(_expanded(pattern[end + 1 :]))):
                yield pattern[:start] + option + rest
            return
    yield pattern


def _options(inner: str) -> Iterator[str] | None:
    """Lists the alternatives between two braces; None if there are none, so that the braces are part of a name."""
    if bounds := _RANGE.fullmatch(inner):
        first, last = bounds.groups()
        # A leading zero means that all numbers have the same width.
        width = max(map(len, bounds.groups())) if "0" in (first[0], last[0]) else 0
        step = 1 if int(first) <= int(last) else -1
        return (f"{i:0{width}d}" for i in range(int(first), int(last) + step, step))
    parts = list(_parts(inner))
    if len(parts) == 1:
        return None
    return (option for part in parts for option in _expanded(part))


def folded(paths: Iterable[str]) -> list[str]:
    """Abbreviates paths to few patterns, with consecutive numbers as `{00..31}`.

    Args:
      paths: Names of files.

    Returns:
      Sorted patterns that match exactly these names; they depend only on the names.
    """
    found = set(paths)
    # The last number first, because earlier numbers often name a version or a day.
    for from_end in range(_FOLDED_NUMBERS):
        runs: dict[tuple[str, int, str], list[int]] = {}
        unfolded = set()
        for path in found:
            numbers = list(_NUMBER.finditer(path))
            if _SPECIAL.search(path) or len(numbers) <= from_end:
                unfolded.add(path)
                continue
            number = numbers[-1 - from_end]
            key = path[: number.start()], len(number[0]), path[number.end() :]
            runs.setdefault(key, []).append(int(number[0]))
        for (before, width, after), own in runs.items():
            for first, last in _runs(sorted(own)):
                text = f"{first:0{width}d}"
                if last > first:
                    text = f"{{{text}..{last:0{width}d}}}"
                unfolded.add(f"{before}{text}{after}")
        found = unfolded
    return sorted(found)


def _runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """Finds the first and last number of each consecutive run, at most as long as braces may expand to."""
    first = 0
    for i in range(1, len(numbers) + 1):
        is_next = i < len(numbers) and numbers[i] == numbers[i - 1] + 1
        if not is_next or i - first == _MAX_ALTERNATIVES:
            yield numbers[first], numbers[i - 1]
            first = i


@dataclasses.dataclass(frozen=True)
class Search:
    """A search for files below a folder.

    Attributes:
      folder: The folder's literal name, without a trailing slash.
      rest: Glob relative to the folder: `*` and `?` match within one folder, `**` across folders, and `**/` also no folder.
    """

    folder: str
    rest: str = "**"

    @classmethod
    def of(cls, pattern: str) -> "Search":
        """Makes the search for a pattern with a glob."""
        folder = _GLOB.split(pattern, maxsplit=1)[0].rpartition("/")[0]
        return cls(folder, pattern[len(folder) + 1 :])

    @property
    def prefix(self) -> str:
        """The common prefix of all matching paths, for stores that list by prefix."""
        return f"{self.folder}/{_GLOB.split(self.rest, maxsplit=1)[0]}"

    @functools.cached_property
    def _parts(self) -> list[str]:
        return self.rest.split("/")

    @functools.cached_property
    def _is_for_extension(self) -> bool:
        return _EXTENSION.search(self.rest) is not None

    @functools.cached_property
    def _regex(self) -> re.Pattern[str]:
        return re.compile(_translated(self.rest), re.DOTALL)

    @functools.cached_property
    def _with_folders(self) -> re.Pattern[str]:
        # Spark and Dask write a folder `a.parquet` with the shards as its files.
        below = "(?:/.*)?" if self._is_for_extension else ""
        return re.compile(_translated(self.rest) + below, re.DOTALL)

    def _below(self, path: str) -> str:
        return path[len(self.folder) + 1 :]

    def matches(self, path: str) -> bool:
        """Tells whether the search includes the file at a path below the folder.

        If the glob ends with an extension and matches a folder, all files of that folder are included.
        """
        return self._with_folders.fullmatch(self._below(path)) is not None

    def asks_for(self, path: str) -> bool:
        """Tells whether the glob ends with an extension and matches the file itself, not only its folder."""
        return self._is_for_extension and self._regex.fullmatch(self._below(path)) is not None

    def enters(self, path: str) -> bool:
        """Tells whether a folder may contain matching files."""
        parts = self._below(path).split("/")
        for part, glob in zip(parts, self._parts, strict=False):
            # `**` matches folders of any depth, so no folder can be ruled out.
            if "**" in glob:
                return True
            if _matcher(glob).fullmatch(part) is None:
                return False
        return len(parts) < len(self._parts) or self._is_for_extension

    def is_hidden(self, path: str) -> bool:
        """Tells whether a path below the folder has a hidden name that the glob does not ask for.

        Hidden names start with `_` or `.`, or are `lost+found`.
        """
        # Behind `**` the place of a name is unknown, so no hidden name is asked for there.
        globs = itertools.takewhile(lambda glob: "**" not in glob, self._parts)
        for part, glob in itertools.zip_longest(self._below(path).split("/"), globs, fillvalue=""):
            if part.startswith(("_", ".")) and part[0] != glob[:1]:
                return True
            if part == LOST_AND_FOUND != glob:
                return True
        return False


@functools.cache
def _matcher(glob: str) -> re.Pattern[str]:
    return re.compile(_translated(glob), re.DOTALL)


def _translated(glob: str) -> str:
    """Translates a glob into a regular expression."""
    result, at = "", 0
    while at < len(glob):
        end = at
        if glob.startswith("**/", at) and glob[at - 1 : at] in ("", "/"):
            # `**/` matches no folder, too: `a/**/b` finds `a/b`.
            result, end = result + "(?:.*/)?", at + 2
        elif glob.startswith("**", at):
            result, end = result + ".*", at + 1
        elif glob[at] == "*":
            result += "[^/]*"
        elif glob[at] == "?":
            result += "[^/]"
        elif (closing := _closing_bracket(glob, at)) > 0:
            result, end = result + _translated_class(glob[at + 1 : closing]), closing
        else:
            result += re.escape(glob[at])
        at = end + 1
    return result


def _translated_class(inner: str) -> str:
    negation = "^" if inner.startswith("!") else ""
    members = re.sub(r"([\\\[\]^&~|])", r"\\\1", inner.removeprefix("!"))
    # A negated class would match a slash, too.
    return f"(?!/)[{negation}{members}]"
