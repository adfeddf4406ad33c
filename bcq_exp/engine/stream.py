"""A run's random numbers, each a function of its seed and the gradient step alone.

They are drawn in blocks of steps from generators seeded by (seed, purpose, block), never from a
global one. So nothing that happens around training (evaluation, other runs of a cohort, a resume)
can shift them, and no generator state has to be saved. Indices and each kind of noise have
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
ROWS, INIT = "rows", "init"  # the purposes that every run has


@dataclass(frozen=True)
class Block:
    """The random numbers of BLOCK_STEPS (T) gradient steps.

    Args:
        indices: (T, B) int64, rows of the data set.
        noise: the algorithm's named tuple of standard normals, (T, ...) each.
    """

    indices: Tensor
    noise: Any


def generator(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """The generator of one purpose (a name) and index under a run's seed."""
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
        noise: the algorithm's named tuple of one step's shapes; each is drawn under its name.

    Raises:
        ValueError: for noise named as one of the streams that every run has.
    """

    seed: int
    num_rows: int
    batch_size: int
    noise: Any

    def __post_init__(self) -> None:
        if taken := {ROWS, INIT} & set(self.noise._fields):
            raise ValueError(f"noise named {taken.pop()}: this name is reserved; use another")

    def block(self, index: int) -> Block:
        """Steps ``index * BLOCK_STEPS`` to the next block's first."""
        shapes = self.noise._asdict()
        return Block(
            indices=self._rows(ROWS, index, (BLOCK_STEPS, self.batch_size)),
            noise=type(self.noise)(
                **{
                    name: self._normals(name, index, (BLOCK_STEPS, *shape))
                    for name, shape in shapes.items()
                }
            ),
        )

    @abstractmethod
    def _rows(self, purpose: str, index: int, size: tuple[int, ...]) -> Tensor:
        """Integers of [0, num_rows)."""

    @abstractmethod
    def _normals(self, purpose: str, index: int, size: tuple[int, ...]) -> Tensor:
        """Standard normals in float32."""


class HostStream(RandomStream):
    """Drawn by NumPy, the same on every machine."""

    def _rows(self, purpose: str, index: int, size: tuple[int, ...]) -> Tensor:
        rng = generator(self.seed, purpose, index)
        return torch.from_numpy(rng.integers(self.num_rows, size=size))

    def _normals(self, purpose: str, index: int, size: tuple[int, ...]) -> Tensor:
        rng = generator(self.seed, purpose, index)
        return torch.from_numpy(rng.standard_normal(size, dtype=np.float32))


@dataclass(frozen=True)
class GrowingStream(HostStream):
    """Of a run whose transitions come while it learns: one more is there at each gradient step.

    Args:
        first_rows: transitions there at the first step; ``num_rows`` are all there will be.
    """

    first_rows: int

    def _rows(self, purpose: str, index: int, size: tuple[int, ...]) -> Tensor:
        rng = generator(self.seed, purpose, index)
        steps = index * BLOCK_STEPS + np.arange(BLOCK_STEPS)
        there = np.minimum(self.first_rows + steps, self.num_rows)
        return torch.from_numpy((rng.random(size) * there[:, None]).astype(np.int64))


@dataclass(frozen=True)
class DeviceStream(RandomStream):
    """Drawn by torch where the training is, so that no number crosses to a GPU.

    The same on every device of a kind, and with a version of torch; not the numbers of a
    :class:`HostStream`.
    """

    device: torch.device

    def _rows(self, purpose: str, index: int, size: tuple[int, ...]) -> Tensor:
        drawn = self._generator(purpose, index)
        return torch.randint(self.num_rows, size, generator=drawn, device=self.device)

    def _normals(self, purpose: str, index: int, size: tuple[int, ...]) -> Tensor:
        drawn = self._generator(purpose, index)
        return torch.randn(size, generator=drawn, device=self.device)

    def _generator(self, purpose: str, index: int) -> torch.Generator:
        seed = int(generator(self.seed, purpose, index).integers(2**63))
        return torch.Generator(self.device).manual_seed(seed)
