"""Recording a function's kernels once and replaying them without Python.

With small networks a gradient step is all overhead: some 350 kernels of a few microseconds
each, and more than that spent on calling them. What is recorded here are the very kernels that the
step runs, forward, backward and optimizers, so that a replay gives the same bits.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.fx import GraphModule, Node

Program = Callable[[], None]
Capture = Callable[[Program, Sequence[Tensor]], Program]


def eager(program: Program, state: Sequence[Tensor]) -> Program:
    """The program as it is, one kernel at a time."""
    return program


def kernel_list(program: Program, state: Sequence[Tensor]) -> Program:
    """The program's kernels as lists that run in C++, on the CPU.

    Args:
        program: reads and writes tensors in place; the same kernels every time.
        state: every tensor it changes, and every one whose content it must read anew each time.
            Whatever else it touches is taken to be constant. Recording leaves them unchanged.
    """
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.passes.split_module import split_module

    def functional(*tensors: Tensor) -> None:
        program()

    aliases = [tensor.detach() for tensor in state]
    with _unchanged(state):
        graph = _without_profiling(make_fx(functional)(*state))
        segments = _segments(graph)
        parts = split_module(graph, graph, segments.__getitem__, keep_original_order=True)
        for name, part in parts.named_children():
            assert isinstance(part, GraphModule)
            if not any(_changes_a_list(node) for node in part.graph.nodes):
                setattr(parts, name, _Traced(part))
        with torch.no_grad():
            parts(*aliases)

    def replay() -> None:
        with torch.no_grad(), torch.jit.optimized_execution(False):
            parts(*aliases)

    return replay


def _without_profiling(graph: GraphModule) -> GraphModule:
    """The graph less the marks that torch's optimizers leave for its profiler."""
    for node in reversed(graph.graph.nodes):
        if isinstance(node.target, OpOverload) and node.target.namespace == "profiler":
            graph.graph.erase_node(node)
    graph.recompile()
    return graph


def _segments(graph: GraphModule) -> dict[Node, int]:
    """Numbers the graph's nodes so that each kernel that changes a list of tensors stands alone.

    The tracer does not see that such a kernel (the optimizers', the targets') changes anything, and
    would leave it out.
    """
    segment, numbers = 0, {}
    for node in graph.graph.nodes:
        alone = _changes_a_list(node)
        segment += alone
        numbers[node] = segment
        segment += alone
    return numbers


def _changes_a_list(node: Node) -> bool:
    if not isinstance(node.target, OpOverload):
        return False
    return any(
        argument.alias_info is not None
        and argument.alias_info.is_write
        and isinstance(argument.type, torch.ListType)
        for argument in node.target._schema.arguments
    )


class _Traced(nn.Module):
    """A graph that turns itself into a list of kernels the first time it is called."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self._kernels: Callable[..., Any] | None = None
        self._graph = graph

    def forward(self, *tensors: Tensor) -> Any:
        if self._kernels is None:
            self._kernels = _trace(self._graph, tensors)
        return self._kernels(*tensors)


def _trace(graph: nn.Module, tensors: Sequence[Tensor]) -> Callable[..., Any]:
    def results(*tensors: Tensor) -> Any:
        returned = graph(*tensors)
        return tensors[0] if returned is None else returned  # a trace must end in a tensor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer's age; it does what is needed here
        clones = tuple(tensor.detach().clone() for tensor in tensors)
        return torch.jit.trace(results, clones, check_trace=False)


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
