"""Executors: they compute the gradient steps of one run or of several stacked runs.

All take the same steps with the same random numbers on the same state, so a run may change its
executor when it resumes, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import inf, nan
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from bcq_exp.algorithm.base import OfflineAlgorithm
from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.policy import Policy
from bcq_exp.algorithm.stacking import REPLACES
from bcq_exp.engine.buffers import StepBuffers, TransitionRows
from bcq_exp.engine.stacked import StackedRuns
from bcq_exp.errors import UserError

AT_ONCE = 8  # most steps in one launch of a CUDA graph

Learner = OfflineAlgorithm | StackedRuns


class Executor(Protocol):
    """Takes steps on the inputs in the buffers and writes their metrics there."""

    def advance(self, count: int) -> None:
        """Take ``count`` steps, from the buffers' row 0 on."""

    def act(self, policy: Policy, obs: np.ndarray, generator: torch.Generator) -> np.ndarray:
        """Act by a policy of the learner as it is now: (B, O) -> (B, A), in the policy's unit."""

    def sync(self) -> None:
        """Update the tensors of the learner that steps change."""


ExecutorFactory = Callable[[Learner, TransitionRows, StepBuffers], Executor]


def take_step(learner: Learner, table: TransitionRows, buffers: StepBuffers, turn: int) -> None:
    """Do the tensor work of the step at the buffers' present row, and go to the next row.

    Metrics that a step does not report are NaN; reported NaNs are stored as infinity.

    Args:
        turn: the index into the learner's ``steps``.
    """
    rows, *noise = (x.index_select(0, buffers.row).squeeze(0) for x in buffers.inputs)
    found = learner.tensor_step(table.batch(rows), type(buffers.noise)._make(noise), turn)
    _check_metrics(found, learner)
    finite_values = torch.stack(list(found.values())).nan_to_num(inf, inf, -inf)
    metrics = dict(zip(found, finite_values, strict=True))
    missing = torch.full_like(finite_values[0], nan)
    row = torch.stack([metrics.get(name, missing) for name in learner.statistics()], -1)
    buffers.metrics.index_copy_(0, buffers.row, row[None])
    buffers.row.add_(1)


def _check_metrics(found: Mapping[str, Tensor], learner: Learner) -> None:
    """Check that a step reports only metrics that its algorithm declares, each one number a run.

    Raises:
        UserError: naming a metric.
    """
    declared = learner.statistics()
    if unknown := found.keys() - set(declared):
        raise UserError(
            f"metric {min(unknown)}: must be declared in training_stats or diagnostics; declared: "
            f"{', '.join(declared)}"
        )
    num_dims = 1 if isinstance(learner, StackedRuns) else 0  # (K,) or ()
    for name, value in found.items():
        if value.dim() != num_dims:
            raise UserError(f"metric {name}: must be one number a run, not {tuple(value.shape)}")


class EagerExecutor:
    """Runs each operator from Python."""

    def __init__(self, learner: Learner, table: TransitionRows, buffers: StepBuffers) -> None:
        self._learner, self._table, self._buffers = learner, table, buffers

    def advance(self, count: int) -> None:
        for _ in range(count):
            turn = self._learner.num_steps % len(self._learner.steps)
            take_step(self._learner, self._table, self._buffers, turn)
            self._learner.after_steps(1)

    def act(self, policy: Policy, obs: np.ndarray, generator: torch.Generator) -> np.ndarray:
        return policy(Batch(obs=obs), generator=generator).act

    def sync(self) -> None:
        """Do nothing: steps write to the tensors themselves."""


class CUDAGraphExecutor(EagerExecutor):
    """Launches steps as CUDA graphs, several per launch without the host.

    A learner that CUDA graphs cannot capture runs eagerly.
    """

    def __init__(self, learner: Learner, table: TransitionRows, buffers: StepBuffers) -> None:
        super().__init__(learner, table, buffers)
        self._cycle = len(learner.steps)
        self._graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}

    def advance(self, count: int) -> None:
        if not self._learner.can_be_compiled:
            super().advance(count)
            return
        while count:
            size = 1 if self._learner.has_schedule or count < AT_ONCE else AT_ONCE
            turn = self._learner.num_steps % self._cycle
            self._graph(turn, size).replay()
            self._learner.after_steps(size)
            count -= size

    def _graph(self, turn: int, size: int) -> torch.cuda.CUDAGraph:
        if (turn, size) not in self._graphs:
            self._graphs[turn, size] = self._captured(turn, size)
        return self._graphs[turn, size]

    def _captured(self, turn: int, size: int) -> torch.cuda.CUDAGraph:
        """Capture a graph of so many steps, after a warm-up without effect on a side stream."""

        def steps() -> None:
            for i in range(size):
                take_step(self._learner, self._table, self._buffers, (turn + i) % self._cycle)

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), unchanged(self._learner, self._buffers):
            self._buffers.row.zero_()
            steps()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            steps()
        return graph


@contextmanager
def unchanged(learner: Learner, buffers: StepBuffers) -> Iterator[None]:
    """Undo the changes of steps inside the block.

    Raises:
        UserError: if a step replaced a tensor of a network: it would leave the program's state.
    """
    state = learner.state_tensors()
    tensors = [*state, *buffers.outputs]
    before = [tensor.detach().clone() for tensor in tensors]
    moments = [o.moments(param) for o in learner.all_optimizers() for param in o.params]
    references = [dict(each) for each in moments]  # an optimizer may replace its tensors
    try:
        yield
    finally:
        for each, remembered in zip(moments, references, strict=True):
            each.update(remembered)
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
    present = set(map(id, learner.state_tensors()))
    if any(id(tensor) not in present for tensor in state):
        raise UserError(REPLACES)
