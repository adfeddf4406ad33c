"""A run's random numbers, each a function of its seed and the gradient step alone.

They are drawn in blocks of steps from generators seeded by (seed, purpose, block), never from a
global one. So nothing that happens around training (evaluation, other runs of a cohort, a resume)
can shift them, and no generator state has to be saved. Indices and each kind of noise have
streams of their own: a sweep over ``num_sampled_action`` sees the same batches throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BLOCK_STEPS = 32


@dataclass(frozen=True)
class Block:
    """The random numbers of BLOCK_STEPS (T) gradient steps.

    Args:
        indices: (T, B) int64, rows of the data set.
        vae_eps: (T, B, L) standard normals, as the two below.
        target_latent: (T, B, n, L).
        actor_latent: (T, B, L).
    """

    indices: np.ndarray
    vae_eps: np.ndarray
    target_latent: np.ndarray
    actor_latent: np.ndarray

    @property
    def noise(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The three kinds of noise, in the order of :class:`bcq_exp.algorithm.step.Noise`."""
        return self.vae_eps, self.target_latent, self.actor_latent


def generator(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """The generator of one purpose (a name) and index under a run's seed."""
    words = np.frombuffer(purpose.encode().ljust(16, b"\0")[:16], dtype=np.uint32)
    sequence = np.random.SeedSequence(seed, spawn_key=(*words.tolist(), index))
    return np.random.Generator(np.random.SFC64(sequence))


def init_seed(seed: int) -> int:
    """The seed of the initial weights, for torch."""
    return int(generator(seed, "init").integers(2**63))


@dataclass(frozen=True)
class RandomStream:
    """The random numbers of a run that samples uniformly from ``num_rows`` transitions."""

    seed: int
    num_rows: int
    batch_size: int
    num_sampled_action: int
    latent_dim: int

    def block(self, index: int) -> Block:
        """Steps ``index * BLOCK_STEPS`` to the next block's first."""

        def normals(purpose: str, *size: int) -> np.ndarray:
            rng = generator(self.seed, purpose, index)
            return rng.standard_normal((BLOCK_STEPS, *size, self.latent_dim), dtype=np.float32)

        rows = generator(self.seed, "rows", index)
        return Block(
            indices=rows.integers(self.num_rows, size=(BLOCK_STEPS, self.batch_size)),
            vae_eps=normals("vae_eps", self.batch_size),
            target_latent=normals("target", self.batch_size, self.num_sampled_action),
            actor_latent=normals("actor", self.batch_size),
        )
