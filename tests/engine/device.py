"""A GPU's path without a GPU: a device that keeps no numbers, and a host that may not look at it.

Torch's ``meta`` device has shapes and types alone, so a step on it that would wait for a number
cannot go on; :class:`NoHost` refuses whatever else would make a GPU wait, or a CUDA graph wrong.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from bcq_exp.algorithm import bcq, twin_critics
from bcq_exp.data.datasets import Dataset
from bcq_exp.engine import placement
from bcq_exp.engine.engine import CohortEngine
from bcq_exp.engine.executors import CUDAGraphExecutor, take_step
from bcq_exp.engine.stream import DeviceStream
from tests.commands import engine_of

DEVICE = torch.device("meta")
# what makes tensors of Python's numbers, or the reverse, and shows no kernel of it
_OF_THE_HOST = {
    torch.tensor, torch.as_tensor, torch.from_numpy, Tensor.new_tensor,
    Tensor.tolist, Tensor.numpy, Tensor.__array__,
}  # fmt: skip


class HostTouched(AssertionError):
    """The host read from the device, or gave it something, where it must not."""


class _Kernels(TorchDispatchMode):
    """Refuses kernels whose result the host must wait for, and tensors that lie on it."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        given = _tensors((args, kwargs))
        if torch.Tag.data_dependent_output in func.tags:
            raise HostTouched(f"{func}: the host reads a number")
        if torch.Tag.dynamic_output_shape in func.tags and _shape_depends(func, given):
            raise HostTouched(f"{func}: a shape depends on numbers")
        if func.overloadpacket is torch.ops.aten._to_copy and kwargs.get("device") not in (
            None,
            DEVICE,
        ):
            raise HostTouched(f"{func}: a copy to the host")
        if strange := {str(x.device) for x in given if x.device != DEVICE}:
            raise HostTouched(f"{func}: takes a tensor of {', '.join(strange)}")
        return func(*args, **kwargs)


class _Calls(TorchFunctionMode):
    """Refuses the calls that no kernel tells of."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in _OF_THE_HOST:
            raise HostTouched(f"{getattr(func, '__name__', func)}: the host's numbers")
        return func(*args, **(kwargs or {}))


@contextmanager
def no_host() -> Iterator[None]:
    """Raises :class:`HostTouched` for anything that a GPU would wait for, or be given, in here."""
    with _Calls(), _Kernels():
        yield


def _tensors(given: Any) -> list[Tensor]:
    return [x for x in pytree.tree_leaves(given) if isinstance(x, Tensor)]


def _shape_depends(func: Any, given: Sequence[Tensor]) -> bool:
    """Indexing has that tag for masks' sake alone."""
    masks = any(x.dtype in (torch.bool, torch.uint8) for x in given[1:])
    return masks or func.overloadpacket is not torch.ops.aten.index


@contextmanager
def pretended_device() -> Iterator[None]:
    """Let runs be built on the device as on a GPU, what needs a real one replaced."""
    with (
        pytest.MonkeyPatch.context() as patch,
        torch.library._scoped_library("aten", "IMPL") as kernels,
    ):
        for name in ("_fused_adam_.tensor_lr", "_fused_adamw_.tensor_lr"):  # torch lacks them
            kernels.impl(name, lambda *args, **kwargs: None, DEVICE.type.capitalize())
        for module, known in (("optimizer", "fused_kernels"), ("rmsprop", "capturable")):
            patch.setattr(
                importlib.import_module(f"torch.optim.{module}"),
                f"_get_{known}_supported_devices",
                lambda: ["cpu", DEVICE.type],
            )
        for module in (bcq, twin_critics):  # weights are drawn on the host, before any step
            patch.setattr(module, "redrawn", copy.deepcopy)
        patch.setattr(placement, "CUDAGraphExecutor", Launched)
        patch.setattr(Launched, "launches", [])
        # no generator is to be had there; the numbers are none anyway
        patch.setattr(DeviceStream, "_generator", lambda *args: torch.Generator())
        yield


class Launched(CUDAGraphExecutor):
    """Counts launches; each runs, once, what its graph would be made of, and lets no host in.

    However many steps a graph holds, one is taken: no number would differ.
    """

    launches: ClassVar[list[int]] = []

    def _captured(self, turn: int, size: int) -> Any:
        def replay() -> None:
            self.launches.append(size)
            with no_host():
                take_step(self._learner, self._table, self._buffers, turn)

        return SimpleNamespace(replay=replay)


def device_engine(cfgs: Sequence[DictConfig], data: Dataset) -> CohortEngine:
    """The engine that these runs get on a GPU, whose host has several cores."""
    built = engine_of(
        cfgs, data, device=DEVICE, stacks=True, num_threads=4, engine="cuda_graph",
        engine_is_required=True,
    )  # fmt: skip
    assert isinstance(built, CohortEngine), "a GPU has all runs as one stack"
    return built
