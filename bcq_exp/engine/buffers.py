"""Inputs and outputs of steps: transitions, random numbers, metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bcq_exp.algorithm.batch import Batch
from bcq_exp.data.transitions import Transitions
from bcq_exp.engine.stream import BLOCK_STEPS, Block, RandomStream

_ROWS_AT_ONCE = 65536  # copied, so that the data are never held twice

Units = Callable[[Transitions], Transitions]
"""Converts rows as the data set has them to the networks' units."""


class TransitionRows(ABC):
    """Transitions as rows (D,) of obs, obs_next, act, rew and terminated: D = 2 O + A + 2.

    Actions are in the policy's unit, observations as the networks take them.

    Args:
        obs_dim, act_dim: O and A.
        dtype, device: dtype and device of the rows.
    """

    def __init__(self, obs_dim: int, act_dim: int, dtype: torch.dtype, device: torch.device):
        self._sizes = [obs_dim, obs_dim, act_dim, 1, 1]
        self._dtype, self._device = dtype, device

    @abstractmethod
    def gather(self, indices: Tensor) -> Tensor:
        """Gather the transitions ``indices`` (..., B) as (..., B, D)."""

    def batch(self, rows: Tensor) -> Batch:
        """Convert gathered rows (..., B, D) to a batch."""
        obs, obs_next, act, rew, terminated = rows.split(self._sizes, -1)
        return Batch(
            obs=obs,
            act=act,
            rew=rew.squeeze(-1),
            terminated=terminated.squeeze(-1),
            obs_next=obs_next,
        )

    @property
    def width(self) -> int:
        """D."""
        return sum(self._sizes)

    def _packed(self, *columns: np.ndarray) -> Tensor:
        """Pack rows (n, D) of obs, obs_next, act, rew and terminated, (n, ...) each."""
        flat = [c[:, None] if c.ndim == 1 else c for c in columns]
        return torch.from_numpy(np.concatenate(flat, 1, dtype=np.float32))


class TransitionTable(TransitionRows):
    """All transitions as one tensor, so that a batch is one gather.

    Args:
        rows: (N, D).
    """

    def __init__(self, rows: Tensor, obs_dim: int, act_dim: int) -> None:
        super().__init__(obs_dim, act_dim, rows.dtype, rows.device)
        self.rows = rows

    @classmethod
    def of(
        cls,
        transitions: Transitions,
        dtype: torch.dtype,
        device: torch.device,
        units: Units = lambda rows: rows,
    ) -> TransitionTable:
        """Make a table of all transitions, with that dtype and device."""
        t = transitions
        table = cls.empty(len(t), t.obs.shape[1], t.act.shape[1], dtype, device)
        for first in range(0, len(t), _ROWS_AT_ONCE):
            part = units(t[first : first + _ROWS_AT_ONCE])
            table.put(first, part.obs, part.obs_next, part.act, part.rew, part.terminated)
        return table

    @classmethod
    def empty(
        cls, size: int, obs_dim: int, act_dim: int, dtype: torch.dtype, device: torch.device
    ) -> TransitionTable:
        """Make a table with room for ``size`` transitions."""
        rows = torch.zeros(size, 2 * obs_dim + act_dim + 2, dtype=dtype, device=device)
        return cls(rows, obs_dim, act_dim)

    def put(self, row: int, *columns: np.ndarray) -> None:
        """Write obs, obs_next, act, rew and terminated, (n, ...) each, from ``row`` on."""
        self.rows[row : row + len(columns[0])].copy_(self._packed(*columns))

    def gather(self, indices: Tensor) -> Tensor:
        found = self.rows.index_select(0, indices.reshape(-1).to(self._device))
        return found.reshape(*indices.shape, -1)


class MappedTransitions(TransitionRows):
    """Transitions of a set too large to be copied, read from its memory-mapped arrays.

    The rows are bitwise identical to those of :class:`TransitionTable`.
    """

    def __init__(self, transitions: Transitions, dtype: torch.dtype, units: Units) -> None:
        obs_dim, act_dim = transitions.obs.shape[1], transitions.act.shape[1]
        super().__init__(obs_dim, act_dim, dtype, torch.device("cpu"))
        self._transitions, self._units = transitions, units

    def gather(self, indices: Tensor) -> Tensor:
        t = self._units(self._transitions[indices.reshape(-1).numpy()])
        rows = self._packed(t.obs, t.obs_next, t.act, t.rew, t.terminated)
        return rows.to(self._dtype).reshape(*indices.shape, self.width)


class StepBuffers:
    """The inputs and metrics of the next W steps, in tensors with fixed addresses.

    Tensors are (W, ...) for one run and (W, K, ...) for K runs.

    Args:
        streams: each run's random numbers; equal streams are drawn once.
        table: the transitions.
        num_metrics: the number of metrics of a step, S.
        dtype, device: dtype and device of noise and metrics.
        num_steps: W.
    """

    def __init__(
        self,
        streams: Sequence[RandomStream],
        table: TransitionRows,
        num_metrics: int,
        dtype: torch.dtype,
        device: torch.device,
        num_steps: int = BLOCK_STEPS,
    ) -> None:
        self._streams, self._table = streams, table
        self._index = -1
        self._drawn: dict[RandomStream, Block] = {}
        self.num_steps = num_steps
        shapes = streams[0].noise
        lead = (num_steps,) if len(streams) == 1 else (num_steps, len(streams))

        def buffer(*shape: int) -> Tensor:
            return torch.zeros(*lead, *shape, dtype=dtype, device=device)

        self.rows = buffer(streams[0].batch_size, table.width)
        self.noise: Any = type(shapes)._make(buffer(*shape) for shape in shapes)
        self.metrics = buffer(num_metrics)
        self.row = torch.zeros(1, dtype=torch.int64, device=device)  # of the present step

    @property
    def inputs(self) -> list[Tensor]:
        """The tensors that :meth:`fill` writes, except ``row``."""
        return [self.rows, *self.noise]

    @property
    def outputs(self) -> list[Tensor]:
        """The tensors that a step writes."""
        return [self.metrics, self.row]

    def double(self) -> StepBuffers:
        """Return a copy in float64, with the present inputs."""
        other = copy(self)
        other.rows, other.metrics = self.rows.double(), self.metrics.double()
        other.noise = type(self.noise)._make(noise.double() for noise in self.noise)
        other.row = self.row.clone()
        return other

    def fill(self, step: int, count: int) -> None:
        """Fill in the inputs of ``count`` steps from ``step`` on, and start at row 0.

        ``count`` is at most ``num_steps``.
        """
        for first in range(step - step % BLOCK_STEPS, step + count, BLOCK_STEPS):
            start, end = max(first, step), min(first + BLOCK_STEPS, step + count)
            self._put(slice(start - step, end - step), slice(start - first, end - first), first)
        self.row.zero_()

    def _put(self, to: slice, steps: slice, first: int) -> None:
        """Fill in some steps' inputs from the block of random numbers that starts at ``first``."""
        index = first // BLOCK_STEPS
        if index != self._index:
            self._drawn = {stream: stream.block(index) for stream in set(self._streams)}
            self._index = index
        blocks = [self._drawn[stream] for stream in self._streams]
        indices = _joined([block.indices[steps] for block in blocks])
        self.rows[to].copy_(self._table.gather(indices))
        for buffer, *drawn in zip(self.noise, *(block.noise for block in blocks), strict=True):
            buffer[to].copy_(_joined([noise[steps] for noise in drawn]))


def _joined(runs: Sequence[Tensor]) -> Tensor:
    """Join tensors of K runs as (W, K, ...); one run's stays (W, ...)."""
    return runs[0] if len(runs) == 1 else torch.stack(list(runs), 1)
