"""What a step reads and writes besides the runs: the data, the random numbers, the statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bcq_exp.algorithm.batch import Batch
from bcq_exp.data.transitions import Transitions
from bcq_exp.engine.stream import BLOCK_STEPS, RandomStream

_ROWS_AT_ONCE = 65536  # copied, so that the data are never held twice

Units = Callable[[Transitions], Transitions]
"""Puts rows as the data set has them into the networks' units."""


class TransitionTable:
    """Transitions as rows of one tensor, so that a batch is one gather.

    Actions are in the policy's unit, observations as the networks take them.

    Args:
        rows: (N, O + O + A + 2): obs, obs_next, act, rew, terminated.
        obs_dim, act_dim: O and A.
    """

    def __init__(self, rows: Tensor, obs_dim: int, act_dim: int) -> None:
        self.rows = rows
        self._sizes = [obs_dim, obs_dim, act_dim, 1, 1]

    @classmethod
    def of(
        cls,
        transitions: Transitions,
        dtype: torch.dtype,
        device: torch.device,
        units: Units = lambda rows: rows,
    ) -> TransitionTable:
        """All transitions, in that dtype and on that device."""
        t = transitions
        table = cls.empty(len(t), t.obs.shape[1], t.act.shape[1], dtype, device)
        for first in range(0, len(t), _ROWS_AT_ONCE):
            table.put_transitions(first, units(t[first : first + _ROWS_AT_ONCE]))
        return table

    @classmethod
    def empty(
        cls, size: int, obs_dim: int, act_dim: int, dtype: torch.dtype, device: torch.device
    ) -> TransitionTable:
        """Room for ``size`` transitions."""
        rows = torch.zeros(size, 2 * obs_dim + act_dim + 2, dtype=dtype, device=device)
        return cls(rows, obs_dim, act_dim)

    def put(self, row: int, *columns: np.ndarray) -> None:
        """Write obs, obs_next, act, rew and terminated, (n, ...) each, from ``row`` on."""
        size = len(columns[0])
        two_dims = [c[:, None] if c.ndim == 1 else c for c in columns]
        rows = np.concatenate(two_dims, 1, dtype=np.float32)
        self.rows[row : row + size].copy_(torch.from_numpy(rows))

    def put_transitions(self, row: int, t: Transitions) -> None:
        """Write transitions from ``row`` on."""
        self.put(row, t.obs, t.obs_next, t.act, t.rew, t.terminated)

    def bring(self, indices: Tensor) -> None:
        """Have the transitions ``indices`` (..., B) at hand, which become their rows here."""

    def batch(self, indices: Tensor) -> Batch:
        """The rows ``indices`` (..., B)."""
        rows = self.rows.index_select(0, indices.reshape(-1)).reshape(*indices.shape, -1)
        obs, obs_next, act, rew, terminated = rows.split(self._sizes, -1)
        return Batch(
            obs=obs,
            act=act,
            rew=rew.squeeze(-1),
            terminated=terminated.squeeze(-1),
            obs_next=obs_next,
        )


class FetchedRows(TransitionTable):
    """The transitions of one engine's present block alone, of a set too large to be had twice.

    They are fetched from arrays that stay where they lie, such as in mapped files, and in the same
    bits as from a table of all.

    Args:
        size: at most so many are brought at once.
    """

    def __init__(
        self, transitions: Transitions, dtype: torch.dtype, units: Units, size: int
    ) -> None:
        obs_dim, act_dim = transitions.obs.shape[1], transitions.act.shape[1]
        rows = torch.zeros(size, 2 * obs_dim + act_dim + 2, dtype=dtype)
        super().__init__(rows, obs_dim, act_dim)
        self._transitions, self._units = transitions, units

    def bring(self, indices: Tensor) -> None:
        fetched = self._transitions[indices.reshape(-1).numpy()]
        self.put_transitions(0, self._units(fetched))
        indices.copy_(torch.arange(indices.numel()).reshape(indices.shape))


class BlockBuffers:
    """The streams' present block, and what comes of its steps, in tensors that keep their place.

    Of one run (T, ...), of K runs (T, K, ...); streams that are equal are drawn once.

    Args:
        table: where the steps' transitions are, brought there before them.
        num_statistics: S, what each step tells.
        dtype, device: of noise and statistics.
    """

    def __init__(
        self,
        streams: Sequence[RandomStream],
        table: TransitionTable,
        num_statistics: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._streams, self._table = streams, table
        self._index = -1
        block = streams[0].block(0)
        lead = (BLOCK_STEPS,) if len(streams) == 1 else (BLOCK_STEPS, len(streams))

        def buffer(like: Tensor, dtype: torch.dtype) -> Tensor:
            return torch.empty(*lead, *like.shape[1:], dtype=dtype, device=device)

        self.indices = buffer(block.indices, torch.int64)
        self.noise: Any = type(block.noise)._make(buffer(x, dtype) for x in block.noise)
        self.statistics = torch.zeros(*lead, num_statistics, dtype=dtype, device=device)
        self.row = torch.zeros(1, dtype=torch.int64, device=device)

    def tensors(self) -> list[Tensor]:
        """All of them."""
        return [self.indices, *self.noise, self.statistics, self.row]

    def rewind(self) -> None:
        """Point ``row`` at the block's first step, wherever it is."""
        self.row.zero_()

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
            self._table.bring(self.indices)
            self._index = index
        self.row.fill_(row)
        return row
