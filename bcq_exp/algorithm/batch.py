"""Batches: named arrays or tensors, the input of algorithms and policies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class Batch:
    """Named arrays or tensors with one leading size, as attributes: ``Batch(obs=..., act=...)``."""

    def __init__(self, **entries: Any) -> None:
        self.__dict__.update(entries)

    def keys(self) -> Iterator[str]:
        """Return the names."""
        return iter(self.__dict__)

    def __getattr__(self, name: str) -> Any:  # only reached when the name is missing
        raise AttributeError(f"this batch has no {name!r}, only {sorted(self.__dict__)}")

    def __repr__(self) -> str:
        return f"Batch({', '.join(f'{k}={v!r}' for k, v in self.__dict__.items())})"
