"""Values as JSON can hold them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def json_values(content: Any, digits: int | None = None) -> Any:
    """Convert nested values and arrays to JSON's types; NaN and infinity become ``None``.

    Args:
        digits: significant digits of numbers; ``None`` keeps all.
    """
    if isinstance(content, np.generic | np.ndarray):
        content = content.tolist()
    if isinstance(content, Mapping):
        return {str(key): json_values(value, digits) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [json_values(value, digits) for value in content]
    if isinstance(content, float):
        if not math.isfinite(content):
            return None
        return content if digits is None else float(f"{content:.{digits}g}")
    return content
