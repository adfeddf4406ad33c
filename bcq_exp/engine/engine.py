"""Engines: how a cohort of K >= 1 runs advances n gradient steps.

An engine owns the algorithms of its cohort, their data on the device and their random streams. It
knows nothing of files, logs or evaluation, and of an algorithm what its contract says
(:class:`bcq_exp.algorithm.base.OfflineAlgorithm`); the trainer sees only this protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import inf, nan
from typing import Any, Protocol

import torch
from torch import Tensor

from bcq_exp.algorithm.base import OfflineAlgorithm
from bcq_exp.engine.buffers import BlockBuffers, TransitionTable
from bcq_exp.engine.capture import Capture, Replay, eager, verified
from bcq_exp.engine.stacked import StackedRuns
from bcq_exp.engine.stream import BLOCK_STEPS, RandomStream


class Engine(Protocol):
    """Advances K runs of one algorithm that share their data set and batch size.

    Args:
        statistics: names of the S numbers that steps tell, in the order of ``train.csv``.
        losses: the first of them.
    """

    statistics: tuple[str, ...]
    losses: tuple[str, ...]

    @property
    def step(self) -> int:
        """Gradient steps taken by every run of the cohort."""

    def advance(self, num_steps: int) -> Tensor:
        """Take ``num_steps`` steps; returns each one's statistics (K, num_steps, S), on the CPU.

        NaN is what the step does not tell; a number that it does, and is none, is infinite.
        """

    def algorithm(self, run: int) -> OfflineAlgorithm:
        """One run's algorithm as it stands, to act by, not to step."""

    def state_dict(self, run: int) -> dict[str, Any]:
        """All that one run needs to go on bit for bit: tensors in plain containers."""

    def load_state_dict(self, run: int, state: dict[str, Any]) -> None:
        """Put one run back where :meth:`state_dict` was taken; the cohort must share its step."""


class PartialEngine(Engine, Protocol):
    """An engine that can stand beside others."""

    @property
    def num_runs(self) -> int:
        """Runs it advances."""

    @property
    def steps_to_record(self) -> int:
        """Steps to take yet until all that it replays is recorded; 0 once it is."""


class CohortEngine:
    """One run, or several stacked. A step reads and writes tensors in place: it can be recorded.

    Args:
        runs: the algorithms, in their dtype and on their device; several as
            :class:`bcq_exp.engine.stacked.StackedRuns` takes them.
        table: the data; engines side by side share one that has all of them.
        streams: each run's random numbers.
        capture: how steps are replayed; :func:`bcq_exp.engine.capture.eager` runs each anew.
    """

    def __init__(
        self,
        runs: Sequence[OfflineAlgorithm],
        table: TransitionTable,
        streams: Sequence[RandomStream],
        capture: Capture,
    ) -> None:
        param = next(runs[0].parameters())
        self._runs = runs
        self._table = table
        self.statistics, self.losses = runs[0].statistics(), runs[0].losses()
        self._block = BlockBuffers(streams, table, len(self.statistics), param.dtype, param.device)
        self._untold = self._block.statistics.new_full(self._block.statistics.shape[1:-1], nan)
        self._capture = capture
        self._cycle = len(runs[0].steps)
        self._told: dict[int, list[int]] = {}  # columns that the steps of each turn tell
        self._learner: OfflineAlgorithm | StackedRuns | None = None
        self._replays: list[Replay] = []  # one for each turn
        self._step = 0

    @property
    def step(self) -> int:
        return self._step

    @property
    def num_runs(self) -> int:
        return len(self._runs)

    @property
    def steps_to_record(self) -> int:
        if self._replays:
            return 0
        return max(0, self._cycle - self._step) + 1  # first, optimizers make their state

    def advance(self, num_steps: int) -> Tensor:
        first = self._step
        return self.told(self.take_steps(num_steps), first)

    def told(self, taken: Tensor, first: int) -> Tensor:
        """What :meth:`take_steps` returned, from the step ``first`` on, as :meth:`advance` has it.

        Waits for the device.
        """
        statistics = taken.to("cpu", torch.float64)  # the one synchronization
        statistics = statistics.reshape(len(taken), len(self._runs), -1)
        for turn, columns in self._told.items():
            rows = statistics[(turn - first) % self._cycle :: self._cycle]
            rows[..., columns] = rows[..., columns].nan_to_num(inf, inf, -inf)
        return statistics.transpose(0, 1)

    def take_steps(self, num_steps: int) -> Tensor:
        """As :meth:`advance`, without waiting for the device: what each step told lies there still.

        Of one run (num_steps, S), of several (num_steps, K, S).
        """
        if self._learner is None:
            self._learner = self._runs[0] if len(self._runs) == 1 else StackedRuns(self._runs)
        one_by_one = self._cycle > 1 or self._learner.has_schedule
        collected, end = [], self._step + num_steps
        while (left := end - self._step) > 0:
            row = self._block.seek(self._step)
            count = min(BLOCK_STEPS - row, left)
            if one_by_one or self._step < self._cycle:
                count = 1
            self._take_steps(self._learner, count)
            collected.append(self._block.statistics[row : row + count].clone())
        return torch.cat(collected)

    def algorithm(self, run: int) -> OfflineAlgorithm:
        return self._runs[run]

    def state_dict(self, run: int) -> dict[str, Any]:
        return {"step": self._step, "algorithm": self._runs[run].state_dict()}

    def load_state_dict(self, run: int, state: dict[str, Any]) -> None:
        self._runs[run].load_state_dict(state["algorithm"])
        self._step = state["step"]
        self._learner = None
        self._replays.clear()

    def _take_steps(self, learner: OfflineAlgorithm | StackedRuns, count: int) -> None:
        turn = self._step % self._cycle
        if self._step < self._cycle:
            self._run(learner, turn)
        else:
            self._replays = self._replays or [
                self._recorded(learner, t) for t in range(self._cycle)
            ]
            self._replays[turn](count)
        learner.after_steps(count)
        self._step += count

    def _recorded(self, learner: OfflineAlgorithm | StackedRuns, turn: int) -> Replay:
        program = partial(self._run, learner, turn)
        state = [*learner.state_tensors(), *self._block.tensors()]
        if not learner.can_be_recorded:
            return eager(program, state)
        optimizers = learner.all_optimizers()
        return verified(self._capture, program, state, optimizers, self._block.rewind)

    def _run(self, learner: OfflineAlgorithm | StackedRuns, turn: int) -> None:
        """The present row's gradient step; the statistics go to that row, then the next is due."""
        block = self._block
        indices, *drawn = (x.index_select(0, block.row)[0] for x in (block.indices, *block.noise))
        noise = type(block.noise)._make(drawn)
        values = learner.tensor_step(self._table.batch(indices), noise, turn)
        self._told[turn] = [i for i, name in enumerate(self.statistics) if name in values]
        row = torch.stack([values.get(name, self._untold) for name in self.statistics], -1)
        block.statistics.index_copy_(0, block.row, row[None])
        block.row.add_(1)


class ParallelEngine:
    """Several engines side by side, each on a thread and a core of its own.

    A gradient step of small networks has nothing that several cores could share, but kernels leave
    Python's lock, so as many cohorts as there are cores advance at once.

    Args:
        engines: on the CPU, all at the same step, each of one run or more.
        num_threads: at most so many advance at a time.
    """

    def __init__(self, engines: Sequence[PartialEngine], num_threads: int) -> None:
        self._engines = engines
        self._owner = [(e, k) for e in engines for k in range(e.num_runs)]
        self._threads = ThreadPoolExecutor(
            num_threads, initializer=torch.set_num_threads, initargs=(1,)
        )
        self.statistics, self.losses = engines[0].statistics, engines[0].losses

    @property
    def step(self) -> int:
        return self._engines[0].step

    @property
    def num_runs(self) -> int:
        return len(self._owner)

    def advance(self, num_steps: int) -> Tensor:
        collected = []
        first = min(num_steps, max(engine.steps_to_record for engine in self._engines))
        if first:  # one after the other: the tracer is not made for threads
            collected.append(torch.cat([engine.advance(first) for engine in self._engines]))
        if left := num_steps - first:
            each = self._threads.map(lambda engine: engine.advance(left), self._engines)
            collected.append(torch.cat(list(each)))
        return torch.cat(collected, 1)

    def algorithm(self, run: int) -> OfflineAlgorithm:
        engine, k = self._owner[run]
        return engine.algorithm(k)

    def state_dict(self, run: int) -> dict[str, Any]:
        engine, k = self._owner[run]
        return engine.state_dict(k)

    def load_state_dict(self, run: int, state: dict[str, Any]) -> None:
        engine, k = self._owner[run]
        engine.load_state_dict(k, state)
