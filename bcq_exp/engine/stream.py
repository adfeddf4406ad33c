"""A run's random numbers, each a function of the seed and the gradient step only.

They are drawn in blocks of steps from generators seeded by (seed, purpose, block), never from a
global generator. Evaluations, other runs of a cohort or a resume therefore do not change them, and
no generator state has to be saved. Indices and each kind of noise have
streams of their own: a sweep over ``num_sampled_action`` sees the same batches throughout.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

BLOCK_STEPS = 32
ROWS, INIT = "rows", "init"  # the purposes of every run


@dataclass(frozen=True)
class Block:
    """The random numbers of BLOCK_STEPS (T) gradient steps.

    Args:
        indices: rows of the data set, (T, B) int64.
        noise: the algorithm's named tuple of standard normals, (T, ...) each.
    """

    indices: Tensor
    noise: Any


def generator(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """Make the generator of one purpose (a name) and index, for a run's seed."""
    name = purpose.encode()
    if len(name) > 16:
        name = hashlib.sha256(name).digest()[:16]
    words = np.frombuffer(name.ljust(16, b"\0"), dtype=np.uint32)
    sequence = np.random.SeedSequence(seed, spawn_key=(*words.tolist(), index))
    return np.random.Generator(np.random.SFC64(sequence))


def init_seed(seed: int) -> int:
    """The seed of the initial weights, for torch."""
    return int(generator(seed, INIT).integers(2**63))


@dataclass(frozen=True)
class RandomStream(ABC):
    """The random numbers of a run that samples uniformly from ``num_rows`` transitions.

    Args:
        noise: the algorithm's named tuple of one step's shapes; each has a stream of its name.

    Raises:
        ValueError: for noise with the name of a stream that every run has.
    """

    seed: int
    num_rows: int
    batch_size: int
    noise: Any

    def __post_init__(self) -> None:
        if taken := {ROWS, INIT} & set(self.noise._fields):
            raise ValueError(f"noise named {taken.pop()}: this name is reserved; use another")

    def block(self, index: int) -> Block:
        """Draw the numbers of BLOCK_STEPS steps from ``index * BLOCK_STEPS`` on."""
        noise = {
            name: self._normals(name, index, (BLOCK_STEPS, *shape))
            for name, shape in self.noise._asdict().items()
        }
        indices = self._rows(index, (BLOCK_STEPS, self.batch_size))
        return Block(indices, type(self.noise)(**noise))

    @abstractmethod
    def _rows(self, index: int, size: tuple[int, ...]) -> Tensor:
        """Draw integers of [0, num_rows)."""

    @abstractmethod
    def _normals(self, purpose: str, index: int, size: tuple[int, ...]) -> Tensor:
        """Draw standard normals in float32."""


class HostStream(RandomStream):
    """A stream drawn by NumPy, identical on every machine."""

    def _rows(self, index: int, size: tuple[int, ...]) -> Tensor:
        rng = generator(self.seed, ROWS, index)
        return torch.from_numpy(rng.integers(self.num_rows, size=size))

    def _normals(self, purpose: str, index: int, size: tuple[int, ...]) -> Tensor:
        rng = generator(self.seed, purpose, index)
        return torch.from_numpy(rng.standard_normal(size, dtype=np.float32))


@dataclass(frozen=True)
class GrowingStream(HostStream):
    """The stream of an online run, which has one more transition at each gradient step.

    Args:
        first_rows: the number of transitions at the first step; ``num_rows`` is the final number.
    """

    first_rows: int

    def _rows(self, index: int, size: tuple[int, ...]) -> Tensor:
        rng = generator(self.seed, ROWS, index)
        steps = index * BLOCK_STEPS + np.arange(BLOCK_STEPS)
        there = np.minimum(self.first_rows + steps, self.num_rows)
        return torch.from_numpy((rng.random(size) * there[:, None]).astype(np.int64))


@dataclass(frozen=True)
class DeviceStream(RandomStream):
    """A stream drawn by torch on the training device, without transfers to a GPU.

    The numbers are equal on devices of one kind with one version of torch, but differ from those of
    a :class:`HostStream`.
    """

    device: torch.device

    def _rows(self, index: int, size: tuple[int, ...]) -> Tensor:
        drawn = self._generator(ROWS, index)
        return torch.randint(self.num_rows, size, generator=drawn, device=self.device)

    def _normals(self, purpose: str, index: int, size: tuple[int, ...]) -> Tensor:
        drawn = self._generator(purpose, index)
        return torch.randn(size, generator=drawn, device=self.device)

    def _generator(self, purpose: str, index: int) -> torch.Generator:
        seed = int(generator(self.seed, purpose, index).integers(2**63))
        return torch.Generator(self.device).manual_seed(seed)
