"""Recording a function's kernels once and replaying them without Python.

With small networks a gradient step is all overhead: some 250 kernels of a few microseconds
each, and more than that spent on calling them. What is recorded here are the very kernels that the
step runs, forward, backward and optimizers, so that a replay gives the same bits; only torch's
compiler, where it is asked for, writes kernels of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule

from bcq_exp.algorithm.optim import ADAM_AS_FORMULAS
from bcq_exp.errors import UserError, first_line
from bcq_exp.training.kernels import compile_kernels, fuse_linear, simplify

AT_ONCE = 8  # times a program is run by one call, where it is to be run that often

Program = Callable[[], None]
Replay = Callable[[int], None]
Capture = Callable[[Program, Sequence[Tensor]], Replay]


def eager(program: Program, state: Sequence[Tensor]) -> Replay:
    """Runs the program as it is, one kernel at a time, so many times."""

    def replay(times: int) -> None:
        for _ in range(times):
            program()

    return replay


def kernel_list(program: Program, state: Sequence[Tensor]) -> Replay:
    """Runs the program's kernels as a list in C++, on the CPU.

    Args:
        program: reads and writes tensors in place; the same kernels every time.
        state: every tensor it changes, and every one whose content it must read anew each time.
            Whatever else it touches is taken to be constant. Recording leaves them unchanged.
    """
    graph = _recorded(program, state)
    fuse_linear(graph)
    once, often = (partial(compile_kernels(graph, n), *_aliases(state)) for n in (1, AT_ONCE))
    return _in_portions(once, often)


def inductor(program: Program, state: Sequence[Tensor]) -> Replay:
    """As :func:`kernel_list`, with kernels that torch's compiler fuses and writes for the CPU.

    That takes half a minute, and rounding differs.

    Raises:
        UserError: without a C++ compiler.
    """
    return eager(_fused(program, state, {"cpp_wrapper": True}), state)


def cuda_graph(program: Program, state: Sequence[Tensor]) -> Replay:
    """Runs the program as CUDA graphs: a launch for AT_ONCE times, no host in between.

    As :func:`kernel_list`, with ``state`` on the CUDA device.
    """
    return _on_cuda(partial(_recorded(program, state), *_aliases(state)), state)


def inductor_cuda_graph(program: Program, state: Sequence[Tensor]) -> Replay:
    """As :func:`cuda_graph`, of the kernels that torch's compiler fuses (see :func:`inductor`)."""
    return _on_cuda(_fused(program, state, {}), state)


def _recorded(
    program: Program,
    state: Sequence[Tensor],
    decompositions: Mapping[OpOverload, Callable] | None = None,
) -> GraphModule:
    """The program's kernels as a function of the state's tensors."""
    from torch.fx.experimental.proxy_tensor import make_fx

    def functional(*tensors: Tensor) -> None:
        program()

    with _unchanged(state):
        graph = make_fx(functional, decomposition_table=decompositions)(*state)
    simplify(graph)
    return graph


def _fused(program: Program, state: Sequence[Tensor], options: dict[str, Any]) -> Program:
    """The program as torch's compiler (TorchInductor) makes it anew, with ``options`` of it."""
    from torch._dynamo.exc import BackendCompilerFailed

    graph = _recorded(program, state, ADAM_AS_FORMULAS)
    kernels = torch.compile(graph, fullgraph=True, dynamic=False, options=options)
    aliases = _aliases(state)

    def replay() -> None:
        with torch.no_grad():
            kernels(*aliases)

    with _unchanged(state):
        try:
            replay()
        except BackendCompilerFailed as error:
            raise UserError(f"trainer.compile=true: {first_line(error)}; use false") from error
    return replay


def _on_cuda(kernels: Program, state: Sequence[Tensor]) -> Replay:
    """Kernels as CUDA graphs, run once before on a side stream, as CUDA asks, and undone."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(stream), _unchanged(state):
        kernels()
    torch.cuda.current_stream().wait_stream(stream)
    once, often = (_cuda_graph_of(kernels, n) for n in (1, AT_ONCE))
    return _in_portions(once.replay, often.replay)


def _cuda_graph_of(kernels: Program, times: int) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        for _ in range(times):
            kernels()
    return graph


def _in_portions(once: Program, often: Program) -> Replay:
    """Runs what ``once`` does any number of times, AT_ONCE of them by ``often``."""

    def replay(times: int) -> None:
        for _ in range(times // AT_ONCE):
            often()
        for _ in range(times % AT_ONCE):
            once()

    return replay


def _aliases(state: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach() for tensor in state]


@contextmanager
def _unchanged(state: Sequence[Tensor]) -> Iterator[None]:
    before = [tensor.detach().clone() for tensor in state]
    yield
    with torch.no_grad():
        for tensor, value in zip(state, before, strict=True):
            tensor.copy_(value)
