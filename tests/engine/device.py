"""A GPU's path without a GPU: a device that keeps no numbers, and a host that may not look at it.

Torch's ``meta`` device has shapes and types alone, so a step on it that would wait for a number
cannot go on; :class:`NoHost` refuses whatever else would make a GPU wait, or a CUDA graph wrong.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.fx import GraphModule
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from bcq_exp.algorithm import bcq, td3_bc
from bcq_exp.data.datasets import Dataset
from bcq_exp.engine import engine as engines
from bcq_exp.engine.capture import Capture, Program, Replay, _recorded, eager
from bcq_exp.engine.engine import CohortEngine
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
        for algorithm in (bcq, td3_bc):  # weights are drawn on the host, before any step
            patch.setattr(algorithm, "redrawn", copy.deepcopy)
        # no generator is to be had there; the numbers are none anyway
        patch.setattr(DeviceStream, "_generator", lambda *args: torch.Generator())
        # its trial compares numbers
        patch.setattr(
            engines, "verified", lambda capture, program, state, *_: capture(program, state)
        )
        yield


def device_engine(cfgs: Sequence[DictConfig], data: Dataset, capture: Capture) -> CohortEngine:
    """The engine that these runs get on a GPU, whose host has several cores."""
    built = engine_of(cfgs, data, device=DEVICE, stacks=True, num_threads=4, capture=capture)
    assert isinstance(built, CohortEngine), "a GPU has all runs as one stack"
    return built


class Recording:
    """A capture that replays what a CUDA graph is made of, having seen the plain program first.

    However often it is to run, it runs once: no number would differ.

    Args:
        graphs: what was recorded.
        times: how often each replay was to run it.
    """

    def __init__(self) -> None:
        self.graphs: list[GraphModule] = []
        self.times: list[int] = []

    def __call__(self, program: Program, state: Sequence[Tensor]) -> Replay:
        with no_host():
            program()
        graph = _recorded(program, state)
        self.graphs.append(graph)
        once = eager(partial(graph, *(tensor.detach() for tensor in state)), state)

        def replay(times: int) -> None:
            self.times.append(times)
            with torch.no_grad():
                once(1)

        return replay
