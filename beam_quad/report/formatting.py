"""Numbers and texts formatted for people: thousands separators, few digits, a true minus sign, "–" for missing values."""

import math
import re
import unicodedata

MISSING = "–"
TEXT_LIMIT = 400
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
# Control and format characters, surrogates, private use, unassigned. Joiners stay, for Indic scripts and emoji.
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
_JOINERS = "\u200c\u200d"
_SPACE = re.compile(r"\s+")


def count(value: float | None) -> str:
    """Formats an integer in full: 1,234,567."""
    return MISSING if value is None else f"{value:,.0f}".replace("-", "−")


def compact(value: float | None) -> str:
    """Formats a number in about three digits with a unit prefix: 950, 1.23 k, 45.6 M, 7.89 B, 1 T."""
    if value is None or not math.isfinite(value):
        return MISSING
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 0.9995:
            return f"{value / size:.3g} {unit}".replace("-", "−")
    return f"{value:.3g}".replace("-", "−")


def decimal(value: float | None, digits: int = 3) -> str:
    """Formats a real number by significant digits: 0.183, −1.20, 1.84×10⁻⁵."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}×10{str(int(exponent)).translate(_SUPERSCRIPTS)}".replace("-", "−")
    if abs(value) >= 10**digits - 0.5:
        return count(value)
    return f"{value:#.{digits}g}".rstrip(".").replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    """Formats like `decimal`, with a plus sign if positive."""
    text = decimal(value, digits)
    return f"+{text}" if value is not None and math.isfinite(value) and value > 0 else text


def percent(share: float | None) -> str:
    """Formats a share of 1: 100 %, 12.3 %, 0.04 %; never rounds up to 100 or down to 0."""
    if share is None or not math.isfinite(share):
        return MISSING
    value = 100 * share
    if 99.95 <= value < 100:
        return "> 99.9 %"
    if 0 < value < 0.01:
        return "< 0.01 %"
    digits = 0 if value in (0, 100) else 2 if abs(value) < 1 else 1
    return f"{value:.{digits}f} %".replace("-", "−")


def correlation(value: float | None, digits: int = 2) -> str:
    """Formats a correlation with fixed decimals: 0.93, −0.12, > 0.99; never rounds up to 1."""
    if value is None or not math.isfinite(value):
        return MISSING
    # An exact 1 that a matrix product has rounded counts as 1.
    if value < 1 - 1e-9 and round(value, digits) >= 1:
        return f"> {1 - 10**-digits:.{digits}f}"
    return f"{value:.{digits}f}".replace("-", "−")


def duration(seconds: float | None) -> str:
    """Formats a duration: 0.8 s, 42 s, 3 min 20 s, 5 h 02 min, 3 d 4 h."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days:,} d {hours} h"


def size(num_bytes: float | None) -> str:
    """Formats a size in bytes: 512 B, 1.50 MiB, 3.2 TiB."""
    if num_bytes is None or not math.isfinite(num_bytes):
        return MISSING
    value, unit = float(num_bytes), _BINARY_UNITS[0]
    for unit in _BINARY_UNITS:
        if abs(value) < 1000 or unit == _BINARY_UNITS[-1]:
            break
        value /= 1024
    return f"{value:.3g} {unit}"


def ratio(part: float, whole: float) -> float | None:
    """Divides; None if the whole is 0."""
    return part / whole if whole else None


def clean(text: str, limit: int = TEXT_LIMIT) -> str:
    """Makes any text fit for one paragraph.

    White space is collapsed. Control characters, lone surrogates and marks that reverse the reading direction (which could
    affect text beyond their paragraph) are dropped. A text longer than `limit` characters is cut.
    """
    # Cut first, so that a document of many megabytes costs no more than a page.
    head = _SPACE.sub(" ", text[: 4 * limit])
    kept = "".join(c for c in head if c in _JOINERS or unicodedata.category(c) not in _INVISIBLE)
    is_cut = len(kept) > limit or len(text) > 4 * limit
    return kept[:limit].rstrip() + "…" if is_cut else kept
