"""Text formatting of amounts, values and lists."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

NAMED = 6  # things that a sentence names


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A count and its noun: ``1 run``, ``2 runs``."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: ``1:02:03``, without hours ``2:03``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def size(num_bytes: float) -> str:
    """Bytes as MiB or GiB."""
    mib = num_bytes / 2**20
    return f"{mib:.1f} MiB" if mib < 1024 else f"{mib / 1024:.1f} GiB"


def decimals(values: Iterable[float | None]) -> int:
    """How many decimals numbers have that are compared, such as returns: more if all are small."""
    largest = max((abs(x) for x in values if x is not None and math.isfinite(x)), default=math.inf)
    return 1 if largest >= 10 or largest == 0 else 2 if largest >= 1 else 3


def numbers(*values: float | None) -> list[str]:
    """Format numbers that are compared; ``None`` is empty."""
    places = decimals(values)
    return ["" if value is None else f"{value:.{places}f}" for value in values]


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of equal length as lines with right-aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]


def listed(words: Sequence[str], most: int = NAMED, separator: str = ", ") -> str:
    """Join the first words and say how many more there are."""
    return separator.join(words[:most]) + and_more(len(words) - most, " ")


def and_more(count: int, before: str = "") -> str:
    """``and 3 more``; empty where nothing is left out."""
    return f"{before}and {count} more" if count > 0 else ""


def shown(value: Any, *, digits: int | None = 4) -> str:
    """Format a configuration value as YAML has it; numbers have all digits where that is None."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value).removesuffix(".0") if digits is None else f"{value:.{digits}g}"
    if isinstance(value, list):
        return "-".join(shown(each, digits=digits) for each in value)
    return str(value)


def told_apart(values: Sequence[Any]) -> list[str]:
    """Format a key's values with the fewest digits, at least four, that distinguish them."""
    exact = [shown(value, digits=None) for value in values]
    rounded = ([shown(value, digits=count) for value in values] for count in range(4, 17))
    return next((texts for texts in rounded if len({*texts}) == len({*exact})), exact)
