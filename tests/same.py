"""Whether two runs' folders record the same training, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from bcq_exp.training.record import RunRecord


def tensors(state: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested containers by their path."""
    if isinstance(state, dict):
        items = list(state.items())
    elif isinstance(state, list | tuple):
        items = list(enumerate(state))
    else:
        return {prefix: state}
    return {k: v for name, x in items for k, v in tensors(x, f"{prefix}/{name}").items()}


def checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def assert_same_state(one: Any, other: Any) -> None:
    one, other = tensors(one), tensors(other)
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other[key]), key
        else:
            assert value == other[key], key


def assert_close_state(one: Any, other: Any, rtol: float = 1e-9, atol: float = 1e-9) -> None:
    """As :func:`assert_same_state`, up to rounding."""
    one, other = tensors(one), tensors(other)
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, other[key], rtol=rtol, atol=atol, equal_nan=True)
        else:
            assert value == other[key], key


def assert_same_rows(one: Path, other: Path) -> None:
    """Both logs and every evaluated episode."""
    for name in ("train.csv", "eval.csv"):
        assert (one / name).read_text() == (other / name).read_text(), name
    first, second = RunRecord(one).episodes(), RunRecord(other).episodes()
    assert first.keys() == second.keys() == {"step", "returns", "lengths"}
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])


def assert_same_run(one: Path, other: Path) -> None:
    """The logs, and all that the checkpoint needs to go on."""
    assert_same_rows(one, other)
    first, second = checkpoint(one), checkpoint(other)
    for part in ("step", "engine", "window", "normalization", "environment"):
        assert_same_state(first[part], second[part])
