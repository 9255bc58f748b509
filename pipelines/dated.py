"""Outputs of scheduled runs, named by the day of the run."""

import datetime
import posixpath
import re
from collections.abc import Iterable, Mapping

_DATE = re.compile(r"(\d{4})-?(\d{2})(?:-?(\d{2}))?")


def date_of(path: str) -> datetime.date | None:
    """Reads the date in the name of a folder, such as 2026-01-31 or 202601; None if there is none."""
    found = _DATE.fullmatch(posixpath.basename(path))
    if found is None:
        return None
    year, month, day = (int(part or 1) for part in found.groups())
    try:
        return datetime.date(year, month, day)
    except ValueError:
        return None


def dated(paths: Iterable[str]) -> dict[str, datetime.date]:
    """Finds the dates of folders named by one."""
    return {path: date for path in paths if (date := date_of(path)) is not None}


def newest(dates: Mapping[str, datetime.date]) -> str | None:
    """Finds the folder of the latest date; None if there is none."""
    # By path too, because 202601 and 2026-01-01 are the same day.
    return max(dates, key=lambda path: (dates[path], path), default=None)
