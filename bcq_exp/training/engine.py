"""Engines: how a cohort of K >= 1 runs advances n gradient steps.

An engine owns the algorithms of its cohort, their data on the device and their random streams. It
knows nothing of files, logs or evaluation; the trainer sees only this protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from bcq_exp.algorithm.base import Batch
from bcq_exp.algorithm.bcq import BCQ, STATISTICS, BCQPolicy, Noise
from bcq_exp.data.transitions import Transitions
from bcq_exp.training.capture import Capture, Program
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
        """The rows ``indices`` (B,)."""
        rows = self._rows.index_select(0, indices)
        obs, obs_next, act, rew, terminated = rows.split(self._sizes, 1)
        return Batch(
            obs=obs,
            act=act,
            rew=rew.squeeze(1),
            terminated=terminated.squeeze(1),
            obs_next=obs_next,
        )


class BlockBuffers:
    """A stream's present block, and what comes of its steps, in tensors that keep their place."""

    def __init__(self, stream: RandomStream, dtype: torch.dtype, device: torch.device) -> None:
        self._stream = stream
        self._index = -1
        block = stream.block(0)
        self.indices = torch.empty(block.indices.shape, dtype=torch.int64, device=device)
        self.noise = [torch.empty(x.shape, dtype=dtype, device=device) for x in block.noise]
        self.statistics = torch.zeros(BLOCK_STEPS, len(STATISTICS), dtype=dtype, device=device)
        self.row = torch.zeros(1, dtype=torch.int64, device=device)

    def tensors(self) -> list[Tensor]:
        """All of them."""
        return [self.indices, *self.noise, self.statistics, self.row]

    def seek(self, step: int) -> int:
        """Fill the buffers for ``step`` and point ``row`` at it; returns that row."""
        index, row = divmod(step, BLOCK_STEPS)
        if index != self._index:
            block = self._stream.block(index)
            self.indices.copy_(torch.from_numpy(block.indices))
            for buffer, drawn in zip(self.noise, block.noise, strict=True):
                buffer.copy_(torch.from_numpy(drawn))
            self._index = index
        self.row.fill_(row)
        return row


class SingleRunEngine:
    """One run. A gradient step reads and writes tensors that stay in place, so it can be captured.

    Args:
        bcq: the algorithm, in its dtype and on its device.
        transitions: as :class:`TransitionTable` takes them.
        stream: the run's random numbers.
        capture: how steps are replayed; :func:`bcq_exp.training.capture.eager` runs each anew.
        while_advancing: a context around the steps, for settings of the matrix kernels.
    """

    def __init__(
        self,
        bcq: BCQ,
        transitions: Transitions,
        stream: RandomStream,
        capture: Capture,
        while_advancing: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        param = next(bcq.policy.critic.parameters())
        self._bcq = bcq
        self._table = TransitionTable(transitions, param.dtype, param.device)
        self._block = BlockBuffers(stream, param.dtype, param.device)
        self._capture = capture
        self._replay: Program | None = None
        self._while_advancing = while_advancing
        self._step = 0

    @property
    def step(self) -> int:
        return self._step

    def advance(self, num_steps: int) -> Tensor:
        collected, end = [], self._step + num_steps
        with self._while_advancing():
            while self._step < end:
                row = self._block.seek(self._step)
                count = min(BLOCK_STEPS - row, end - self._step)
                for _ in range(count):
                    self._take_step()
                collected.append(self._block.statistics[row : row + count].clone())
        return torch.cat(collected).unsqueeze(0).to("cpu", torch.float64)  # the one synchronization

    def policy(self, run: int) -> BCQPolicy:
        return self._bcq.policy

    def state_dict(self, run: int) -> dict[str, Any]:
        return {"step": self._step, "bcq": self._bcq.state_dict()}

    def load_state_dict(self, run: int, state: dict[str, Any]) -> None:
        self._bcq.load_state_dict(state["bcq"])
        self._step = state["step"]
        self._replay = None

    def _take_step(self) -> None:
        if self._replay is not None:
            self._replay()
        elif self._bcq.has_stepped:
            state = [*self._bcq.state_tensors(), *self._block.tensors()]
            self._replay = self._capture(self._program, state)
            self._replay()
        else:  # optimizers make their state in the first step: nothing to capture before it
            self._program()
        self._bcq.after_step()
        self._step += 1

    def _program(self) -> None:
        """The present row's gradient step; the statistics go to that row, then the next is due."""
        block = self._block
        indices, *noise = (x.index_select(0, block.row)[0] for x in (block.indices, *block.noise))
        values = self._bcq.tensor_step(self._table.batch(indices), Noise(*noise))
        block.statistics.index_copy_(0, block.row, torch.stack(tuple(values.values()))[None])
        block.row.add_(1)
