"""Recording a function's kernels once and replaying them without Python.

With small networks a gradient step is all overhead: some 250 kernels of a few microseconds
each, and more than that spent on calling them. What is recorded here are the very kernels that the
step runs, forward, backward and optimizers, so that a replay gives the same bits; only torch's
compiler, where it is asked for, writes kernels of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule

from bcq_exp.algorithm.optim import ADAM_AS_FORMULAS, Optimizer
from bcq_exp.engine.kernels import compile_kernels, fuse_linear, simplify
from bcq_exp.errors import UserError, first_line

log = logging.getLogger(__name__)

ROUNDING = 0.02  # of a tensor's change, by norm, that a replay may be off: bfloat16, fused kernels
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
    from torch._guards import TracingContext, tracing
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    def functional(*tensors: Tensor) -> None:
        program()

    # one mode for what is noted of each tensor: else each makes its own, most of a recording's time
    with _unchanged(state), tracing(TracingContext(FakeTensorMode())):
        graph = make_fx(functional, decomposition_table=decompositions)(*state)
    simplify(graph, state)
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


def verified(
    capture: Capture,
    program: Program,
    state: Sequence[Tensor],
    optimizers: Sequence[Optimizer],
    rewind: Program,
) -> Replay:
    """``capture``'s replay of a program where it does what the program does; else that, eager.

    Each is run twice in a row: what was recorded as a constant and is none (a counter in Python, a
    learning rate) shows the second time. Whatever either changes is put back. Where they differ, or
    recording fails (another torch, an optimizer that cannot be traced), one warning says so.

    Args:
        state: as of :func:`kernel_list`.
        optimizers: whose memory of tensors and numbers is put back, too.
        rewind: called before each trial, to make room for it.

    Raises:
        UserError: if torch's compiler was asked for and fails.
    """
    plain = eager(program, state)
    if capture is eager:
        return plain
    try:
        with _unchanged(state, optimizers):
            replay = capture(program, state)
        before = [tensor.detach().clone() for tensor in state]
        recorded, expected = (_after(r, state, optimizers, rewind) for r in (replay, plain))
        differing = sum(
            not _agree(*values) for values in zip(recorded, expected, before, strict=True)
        )
    except UserError:
        raise
    except Exception as error:  # torch's private parts may raise anything
        log.debug("recording failed", exc_info=True)
        _warn(f"{type(error).__name__}: {first_line(error)}")
        return plain
    if differing:
        _warn(f"replayed, {differing} of {len(state)} tensors become others")
        return plain
    return replay


def _after(
    replay: Replay, state: Sequence[Tensor], optimizers: Sequence[Optimizer], rewind: Program
) -> list[Tensor]:
    """What the state becomes by two replays, which are undone."""
    with _unchanged(state, optimizers):
        rewind()
        replay(2)
        return [tensor.detach().clone() for tensor in state]


def _agree(recorded: Tensor, expected: Tensor, before: Tensor) -> bool:
    """Whether a tensor changed alike, up to rounding: usually to the bit."""
    if torch.equal(recorded, expected):
        return True
    if not expected.is_floating_point():
        return False
    off, change = (recorded - expected).double(), (expected - before).double()
    if not change.isfinite().all():  # diverged, the same way
        return torch.equal(recorded.isfinite(), expected.isfinite())
    return bool(off.norm() <= ROUNDING * change.norm())


@cache  # one warning, however many engines there are
def _warn(reason: str) -> None:
    log.warning(
        "steps are not recorded but run one by one, which is slower (%s); trainer.capture=eager "
        "says so from the start",
        reason,
    )


@contextmanager
def _unchanged(state: Sequence[Tensor], optimizers: Sequence[Optimizer] = ()) -> Iterator[None]:
    before = [tensor.detach().clone() for tensor in state]
    references = [optimizer.references() for optimizer in optimizers]
    try:
        yield
    finally:
        for optimizer, remembered in zip(optimizers, references, strict=True):
            optimizer.refer_to(remembered)
        with torch.no_grad():
            for tensor, value in zip(state, before, strict=True):
                tensor.copy_(value)
