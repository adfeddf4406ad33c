"""Recording a function's kernels once and replaying them without Python.

With small networks a gradient step is all overhead: some 350 kernels of a few microseconds
each, and more than that spent on calling them. What is recorded here are the very kernels that the
step runs, forward, backward and optimizers, so that a replay gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from bcq_exp.training.kernels import compile_kernels, fuse_linear, simplify

Program = Callable[[], None]
Capture = Callable[[Program, Sequence[Tensor]], Program]


def eager(program: Program, state: Sequence[Tensor]) -> Program:
    """The program as it is, one kernel at a time."""
    return program


def kernel_list(program: Program, state: Sequence[Tensor]) -> Program:
    """The program's kernels as a list that runs in C++, on the CPU.

    Args:
        program: reads and writes tensors in place; the same kernels every time.
        state: every tensor it changes, and every one whose content it must read anew each time.
            Whatever else it touches is taken to be constant. Recording leaves them unchanged.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    def functional(*tensors: Tensor) -> None:
        program()

    with _unchanged(state):
        graph = make_fx(functional)(*state)
    simplify(graph)
    fuse_linear(graph)
    kernels = compile_kernels(graph)
    aliases = [tensor.detach() for tensor in state]

    return partial(kernels, *aliases)


def cuda_graph(program: Program, state: Sequence[Tensor]) -> Program:
    """The program as one CUDA graph: a launch a replay, no host in between.

    ``state`` must lie on the CUDA device. The program is run once before, on a side stream as CUDA
    asks, and its effect undone.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), _unchanged(state):
        program()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        program()
    return graph.replay


@contextmanager
def _unchanged(state: Sequence[Tensor]) -> Iterator[None]:
    before = [tensor.detach().clone() for tensor in state]
    yield
    with torch.no_grad():
        for tensor, value in zip(state, before, strict=True):
            tensor.copy_(value)
