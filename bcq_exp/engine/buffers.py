"""What a step reads and writes besides the runs: the data, the random numbers, the statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bcq_exp.algorithm.batch import Batch
from bcq_exp.data.transitions import Transitions
from bcq_exp.engine.stream import BLOCK_STEPS, RandomStream


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

    Args:
        num_statistics: S, what each step tells.
        dtype, device: of noise and statistics.
    """

    def __init__(
        self,
        streams: Sequence[RandomStream],
        num_statistics: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._streams = streams
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
            self._index = index
        self.row.fill_(row)
        return row
