"""Engines: how a cohort of K >= 1 runs advances n gradient steps.

An engine owns the algorithms of its cohort, their data on the device and their random streams. It
knows nothing of files, logs or evaluation, and uses only the contract of an algorithm
(:class:`bcq_exp.algorithm.base.OfflineAlgorithm`); the trainer sees only this protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from bcq_exp.algorithm.base import OfflineAlgorithm
from bcq_exp.engine.buffers import StepBuffers, TransitionRows
from bcq_exp.engine.executors import EagerExecutor, Executor, ExecutorFactory, Learner
from bcq_exp.engine.stacked import StackedRuns
from bcq_exp.engine.stream import BLOCK_STEPS, RandomStream


class Engine(Protocol):
    """Advances K runs of one algorithm that share their data set and batch size.

    Args:
        statistics: names of the S metrics that steps report, in the order of ``train.csv``.
        losses: the first of them, which are losses.
    """

    statistics: tuple[str, ...]
    losses: tuple[str, ...]

    @property
    def num_runs(self) -> int:
        """K."""

    @property
    def step(self) -> int:
        """Gradient steps taken by every run of the cohort."""

    def advance(self, num_steps: int) -> Tensor:
        """Take ``num_steps`` steps; returns each one's statistics (K, num_steps, S), on the CPU.

        NaN: not reported by this step. A reported NaN is stored as infinity.
        """

    def algorithm(self, run: int) -> OfflineAlgorithm:
        """Return one run's algorithm, up to date, for acting; do not step it."""

    def state_dict(self, run: int) -> dict[str, Any]:
        """Return all that one run needs to resume bitwise identically, in plain containers."""

    def load_state_dict(self, run: int, state: dict[str, Any]) -> None:
        """Restore one run from :meth:`state_dict`; a cohort's runs must be at the same step."""


class CohortEngine:
    """One run, or several stacked.

    Args:
        runs: the algorithms, in their dtype and on their device; several as
            :class:`bcq_exp.engine.stacked.StackedRuns` takes them.
        table: the data, which parallel engines share.
        streams: each run's random numbers.
        executor: makes the executor, once optimizers have their state.
        eager_steps: steps that are computed eagerly before; a multiple of ``buffered_steps``.
        buffered_steps: steps whose inputs are prepared at once.
    """

    def __init__(
        self,
        runs: Sequence[OfflineAlgorithm],
        table: TransitionRows,
        streams: Sequence[RandomStream],
        executor: ExecutorFactory,
        eager_steps: int = 0,
        buffered_steps: int = BLOCK_STEPS,
    ) -> None:
        param = next(runs[0].parameters())
        self._runs = runs
        self._table = table
        self.statistics, self.losses = runs[0].statistics(), runs[0].losses()
        self._buffers = StepBuffers(
            streams, table, len(self.statistics), param.dtype, param.device, buffered_steps
        )
        self._make_executor, self._eager_steps = executor, eager_steps
        self._learner: Learner | None = None
        self._executor: Executor | None = None
        self._step = 0

    @property
    def step(self) -> int:
        return self._step

    @property
    def num_runs(self) -> int:
        return len(self._runs)

    def advance(self, num_steps: int) -> Tensor:
        return self.as_metrics(self.take_steps(num_steps))

    def as_metrics(self, taken: Tensor) -> Tensor:
        """Convert :meth:`take_steps` metrics to those of :meth:`advance`; waits for the device."""
        metrics = taken.to("cpu", torch.float64)  # the one synchronization
        return metrics.reshape(len(taken), len(self._runs), -1).transpose(0, 1)

    def take_steps(self, num_steps: int) -> Tensor:
        """Do as :meth:`advance` without waiting for the device; the metrics stay there.

        Metrics are (num_steps, S) of one run and (num_steps, K, S) of several.
        """
        collected, end = [], self._step + num_steps
        while (left := end - self._step) > 0:
            learner, executor = self._present()
            size = self._buffers.num_steps
            count = min(size - self._step % size, left)
            if learner.num_steps < len(learner.steps):
                count = 1  # its optimizers make their state
            self._buffers.fill(self._step, count)
            executor.advance(count)
            collected.append(self._buffers.metrics[:count].clone())
            self._step += count
        return torch.cat(collected)

    def algorithm(self, run: int) -> OfflineAlgorithm:
        self._sync()
        return self._runs[run]

    def act(self, obs: np.ndarray, generator: torch.Generator) -> np.ndarray:
        """Act by the policy of the only run: (B, O) -> (B, A), in the policy's unit."""
        _, executor = self._present()
        return executor.act(self._runs[0].policy, obs, generator)

    def state_dict(self, run: int) -> dict[str, Any]:
        self._sync()
        return {"step": self._step, "algorithm": self._runs[run].state_dict()}

    def load_state_dict(self, run: int, state: dict[str, Any]) -> None:
        self._sync()
        self._runs[run].load_state_dict(state["algorithm"])
        self._step = state["step"]
        self._learner = self._executor = None

    def _present(self) -> tuple[Learner, Executor]:
        """The learner, and the executor of its next step."""
        if self._learner is None:
            self._learner = self._runs[0] if len(self._runs) == 1 else StackedRuns(self._runs)
        if self._executor is None:
            if self._step < max(self._eager_steps, len(self._learner.steps)):
                return self._learner, EagerExecutor(self._learner, self._table, self._buffers)
            self._buffers.fill(self._step, 1)  # steps that a compiler tries
            self._executor = self._make_executor(self._learner, self._table, self._buffers)
        return self._learner, self._executor

    def _sync(self) -> None:
        if self._executor is not None:
            self._executor.sync()


class ParallelEngine:
    """Several engines that advance in parallel, each on its own thread and core.

    A gradient step of small networks is too small to divide among cores, but kernels release
    Python's lock, so as many cohorts as there are cores advance at once.

    Args:
        engines: on the CPU, all at the same step, each of one run or more.
        num_threads: at most so many advance at a time.
    """

    def __init__(self, engines: Sequence[Engine], num_threads: int) -> None:
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
        each = self._threads.map(lambda engine: engine.advance(num_steps), self._engines)
        return torch.cat(list(each))

    def algorithm(self, run: int) -> OfflineAlgorithm:
        engine, k = self._owner[run]
        return engine.algorithm(k)

    def state_dict(self, run: int) -> dict[str, Any]:
        engine, k = self._owner[run]
        return engine.state_dict(k)

    def load_state_dict(self, run: int, state: dict[str, Any]) -> None:
        engine, k = self._owner[run]
        engine.load_state_dict(k, state)
