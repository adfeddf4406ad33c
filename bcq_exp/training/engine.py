"""Engines: how a cohort of K >= 1 runs advances n gradient steps.

An engine owns the algorithms of its cohort, their data on the device and their random streams. It
knows nothing of files, logs or evaluation; the trainer sees only this protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from bcq_exp.algorithm.base import Batch
from bcq_exp.algorithm.bcq import BCQ, BCQPolicy
from bcq_exp.algorithm.stacked import StackedBCQ
from bcq_exp.algorithm.step import STATISTICS, Noise
from bcq_exp.data.transitions import Transitions
from bcq_exp.training.capture import Capture, Replay, eager
from bcq_exp.training.stream import BLOCK_STEPS, RandomStream


class Engine(Protocol):
    """Advances K runs that share their data set and batch size."""

    @property
    def step(self) -> int:
        """Gradient steps taken by every run of the cohort."""

    def advance(self, num_steps: int) -> Tensor:
        """Take ``num_steps`` steps; returns each one's STATISTICS (K, num_steps, S), on the CPU."""

    def policy(self, run: int) -> BCQPolicy:
        """The policy of one run as it stands."""

    def state_dict(self, run: int) -> dict[str, Any]:
        """All that one run needs to go on bit for bit: tensors in plain containers."""

    def load_state_dict(self, run: int, state: dict[str, Any]) -> None:
        """Put one run back where :meth:`state_dict` was taken; the cohort must share its step."""


class TransitionTable:
    """All transitions as rows of one tensor, so that a batch is one gather.

    Args:
        transitions: actions in the policy's unit, observations as the networks take them.
        dtype, device: where and as what the rows are kept.
    """

    def __init__(self, transitions: Transitions, dtype: torch.dtype, device: torch.device) -> None:
        parts = [
            torch.as_tensor(part.copy()).to(device=device, dtype=dtype).reshape(len(part), -1)
            for part in (
                transitions.obs,
                transitions.obs_next,
                transitions.act,
                transitions.rew,
                transitions.terminated,
            )
        ]
        self._sizes = [part.shape[1] for part in parts]
        self._rows = torch.cat(parts, 1)

    def batch(self, indices: Tensor) -> Batch:
        """The rows ``indices`` (..., B)."""
        rows = self._rows.index_select(0, indices.reshape(-1)).reshape(*indices.shape, -1)
        obs, obs_next, act, rew, terminated = rows.split(self._sizes, -1)
        return Batch(
            obs=obs,
            act=act,
            rew=rew.squeeze(-1),
            terminated=terminated.squeeze(-1),
            obs_next=obs_next,
        )


class BlockBuffers:
    """The streams' present block, and what comes of its steps, in tensors that keep their place.

    Of one run (T, ...), of K runs (T, K, ...); streams that are equal are drawn once.
    """

    def __init__(
        self, streams: Sequence[RandomStream], dtype: torch.dtype, device: torch.device
    ) -> None:
        self._streams = streams
        self._index = -1
        block = streams[0].block(0)
        lead = (BLOCK_STEPS,) if len(streams) == 1 else (BLOCK_STEPS, len(streams))

        def buffer(like: Tensor, dtype: torch.dtype) -> Tensor:
            return torch.empty(*lead, *like.shape[1:], dtype=dtype, device=device)

        self.indices = buffer(block.indices, torch.int64)
        self.noise = [buffer(x, dtype) for x in block.noise]
        self.statistics = torch.zeros(*lead, len(STATISTICS), dtype=dtype, device=device)
        self.row = torch.zeros(1, dtype=torch.int64, device=device)

    def tensors(self) -> list[Tensor]:
        """All of them."""
        return [self.indices, *self.noise, self.statistics, self.row]

    def seek(self, step: int) -> int:
        """Fill the buffers for ``step`` and point ``row`` at it; returns that row."""
        index, row = divmod(step, BLOCK_STEPS)
        if index != self._index:
            blocks = {stream: stream.block(index) for stream in set(self._streams)}
            for k, stream in enumerate(self._streams):
                drawn = blocks[stream]
                for buffer, values in zip(
                    (self.indices, *self.noise), (drawn.indices, *drawn.noise), strict=True
                ):
                    of_run = buffer if len(self._streams) == 1 else buffer[:, k]
                    of_run.copy_(values)
            self._index = index
        self.row.fill_(row)
        return row


class CohortEngine:
    """One run, or several stacked. A step reads and writes tensors in place: it can be captured.

    Args:
        runs: the algorithms, in their dtype and on their device; several as
            :class:`bcq_exp.algorithm.stacked.StackedBCQ` takes them.
        table: the data, which engines side by side share.
        streams: each run's random numbers.
        capture: how steps are replayed; :func:`bcq_exp.training.capture.eager` runs each anew.
    """

    def __init__(
        self,
        runs: Sequence[BCQ],
        table: TransitionTable,
        streams: Sequence[RandomStream],
        capture: Capture,
    ) -> None:
        param = next(runs[0].policy.critic.parameters())
        self._runs = runs
        self._table = table
        self._block = BlockBuffers(streams, param.dtype, param.device)
        self._capture = capture
        self._learner: BCQ | StackedBCQ | None = None
        self._replay: Replay | None = None
        self._step = 0

    @property
    def step(self) -> int:
        return self._step

    @property
    def num_runs(self) -> int:
        return len(self._runs)

    def advance(self, num_steps: int) -> Tensor:
        if self._learner is None:
            self._learner = self._runs[0] if len(self._runs) == 1 else StackedBCQ(self._runs)
        collected, end = [], self._step + num_steps
        while self._step < end:
            row = self._block.seek(self._step)
            count = min(BLOCK_STEPS - row, end - self._step)
            if not self._learner.has_stepped or self._learner.has_schedule:
                count = 1
            self._take_steps(self._learner, count)
            collected.append(self._block.statistics[row : row + count].clone())
        statistics = torch.cat(collected).to("cpu", torch.float64)  # the one synchronization
        return statistics.reshape(num_steps, len(self._runs), -1).transpose(0, 1)

    def policy(self, run: int) -> BCQPolicy:
        return self._runs[run].policy

    def state_dict(self, run: int) -> dict[str, Any]:
        return {"step": self._step, "bcq": self._runs[run].state_dict()}

    def load_state_dict(self, run: int, state: dict[str, Any]) -> None:
        self._runs[run].load_state_dict(state["bcq"])
        self._step = state["step"]
        self._learner = self._replay = None

    def _take_steps(self, learner: BCQ | StackedBCQ, count: int) -> None:
        if not learner.has_stepped:  # optimizers make their state then: nothing to capture before
            self._program(learner)
        else:
            if self._replay is None:
                state = [*learner.state_tensors(), *self._block.tensors()]
                capture = self._capture if learner.can_be_captured else eager
                self._replay = capture(partial(self._program, learner), state)
            self._replay(count)
        learner.after_steps(count)
        self._step += count

    def _program(self, learner: BCQ | StackedBCQ) -> None:
        """The present row's gradient step; the statistics go to that row, then the next is due."""
        block = self._block
        indices, *noise = (x.index_select(0, block.row)[0] for x in (block.indices, *block.noise))
        values = learner.tensor_step(self._table.batch(indices), Noise(*noise))
        block.statistics.index_copy_(0, block.row, torch.stack(tuple(values.values()), -1)[None])
        block.row.add_(1)


class ParallelEngine:
    """Several engines side by side, each on a thread and a core of its own.

    A gradient step of small networks has nothing that several cores could share, but kernels leave
    Python's lock, so as many cohorts as there are cores advance at once.

    Args:
        engines: on the CPU, all at the same step.
        num_threads: at most so many advance at a time.
    """

    def __init__(self, engines: Sequence[CohortEngine], num_threads: int) -> None:
        self._engines = engines
        self._owner = [(e, k) for e in engines for k in range(e.num_runs)]
        self._threads = ThreadPoolExecutor(
            num_threads, initializer=torch.set_num_threads, initargs=(1,)
        )
        self._are_captured = False

    @property
    def step(self) -> int:
        return self._engines[0].step

    @property
    def num_runs(self) -> int:
        return len(self._owner)

    def advance(self, num_steps: int) -> Tensor:
        collected = []
        if not self._are_captured:  # one after the other: the tracer is not made for threads
            first = min(2, num_steps)
            collected.append(torch.cat([engine.advance(first) for engine in self._engines]))
            self._are_captured, num_steps = first == 2, num_steps - first
        if num_steps:
            each = self._threads.map(lambda engine: engine.advance(num_steps), self._engines)
            collected.append(torch.cat(list(each)))
        return torch.cat(collected, 1)

    def policy(self, run: int) -> BCQPolicy:
        engine, k = self._owner[run]
        return engine.policy(k)

    def state_dict(self, run: int) -> dict[str, Any]:
        engine, k = self._owner[run]
        return engine.state_dict(k)

    def load_state_dict(self, run: int, state: dict[str, Any]) -> None:
        engine, k = self._owner[run]
        engine.load_state_dict(k, state)
        self._are_captured = False
