"""Nested containers of tensors, and files of them: checkpoints, critics of fitted Q evaluation."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


def save_tensors(content: Any, path: Path) -> None:
    """Write nested containers of tensors; each tensor takes the space of its own numbers.

    ``torch.save`` alone writes the whole storage under a view, and the tensors of a stacked run are
    views of the stack's.

    Raises:
        OSError: if the system refuses.
    """
    try:
        with path.open("wb") as file:
            torch.save(_copied(content), file)
    except RuntimeError as error:  # raised when torch closes a file after a failed write
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def tensors_in(content: Any) -> Iterator[Tensor]:
    """The tensors in nested containers."""
    return (x for x in pytree.tree_leaves(content) if isinstance(x, Tensor))


def _copied(content: Any) -> Any:
    if isinstance(content, Tensor):
        return content.to("cpu", copy=True)
    if isinstance(content, dict):
        kept = copy.copy(content)  # state_dicts have versions as attributes
        kept.update({key: _copied(value) for key, value in content.items()})
        return kept
    if isinstance(content, list | tuple):
        return type(content)(map(_copied, content))
    return content
