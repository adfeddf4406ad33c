"""Engines: how a cohort of K >= 1 runs advances n gradient steps.

An engine owns the algorithms of its cohort, their data on the device and their random streams. It
knows nothing of files, logs or evaluation; the trainer sees only this protocol.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from bcq_exp.algorithm.base import Batch
from bcq_exp.algorithm.bcq import BCQ, STATISTICS, BCQPolicy, Noise
from bcq_exp.data.transitions import Transitions
from bcq_exp.training.stream import BLOCK_STEPS, Block, RandomStream


class Engine(Protocol):
    """Advances K runs that share their data set and batch size."""

    @property
    def step(self) -> int:
        """Gradient steps taken by every run of the cohort."""

    def advance(self, num_steps: int) -> Tensor:
        """Take ``num_steps`` steps; returns the STATISTICS of each (K, num_steps, S), on the CPU."""

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
        obs, obs_next, act, rew, terminated = self._rows[indices].split(self._sizes, 1)
        return Batch(
            obs=obs,
            act=act,
            rew=rew.squeeze(1),
            terminated=terminated.squeeze(1),
            obs_next=obs_next,
        )


@dataclass
class _BlockOnDevice:
    """A stream's present block as tensors."""

    index: int
    indices: Tensor
    vae_eps: Tensor
    target_latent: Tensor
    actor_latent: Tensor

    @classmethod
    def of(cls, index: int, block: Block, dtype: torch.dtype, device: torch.device) -> Any:
        noise = (
            torch.from_numpy(x).to(device=device, dtype=dtype)
            for x in (block.vae_eps, block.target_latent, block.actor_latent)
        )
        return cls(index, torch.from_numpy(block.indices).to(device), *noise)


class EagerEngine:
    """One run, one kernel at a time: the plain reference, and the engine for any network."""

    def __init__(
        self,
        bcq: BCQ,
        transitions: Transitions,
        stream: RandomStream,
    ) -> None:
        param = next(bcq.policy.critic.parameters())
        self._dtype, self._device = param.dtype, param.device
        self._bcq = bcq
        self._table = TransitionTable(transitions, self._dtype, self._device)
        self._stream = stream
        self._block: _BlockOnDevice | None = None
        self._step = 0

    @property
    def step(self) -> int:
        return self._step

    def advance(self, num_steps: int) -> Tensor:
        statistics = torch.empty(num_steps, len(STATISTICS), dtype=self._dtype, device=self._device)
        for i in range(num_steps):
            block, row = self._block_and_row()
            noise = Noise(block.vae_eps[row], block.target_latent[row], block.actor_latent[row])
            values = self._bcq.gradient_step(self._table.batch(block.indices[row]), noise)
            torch.stack(tuple(values.values()), out=statistics[i])
            self._step += 1
        return statistics.unsqueeze(0).double().cpu()

    def policy(self, run: int) -> BCQPolicy:
        return self._bcq.policy

    def state_dict(self, run: int) -> dict[str, Any]:
        return {"step": self._step, "bcq": self._bcq.state_dict()}

    def load_state_dict(self, run: int, state: dict[str, Any]) -> None:
        self._bcq.load_state_dict(state["bcq"])
        self._step = state["step"]

    def _block_and_row(self) -> tuple[_BlockOnDevice, int]:
        index, row = divmod(self._step, BLOCK_STEPS)
        if self._block is None or self._block.index != index:
            block = self._stream.block(index)
            self._block = _BlockOnDevice.of(index, block, self._dtype, self._device)
        return self._block, row
