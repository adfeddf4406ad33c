"""The sizes at which training is timed, and the arithmetic a step takes. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

NUM_TRANSITIONS = 100_000
EPISODE_STEPS = 1_000


@dataclass(frozen=True)
class Sizes:
    """Dimensions of data, networks and batch, and our configuration's words for them."""

    obs_dim: int
    act_dim: int
    hidden: tuple[int, ...]
    vae_hidden: tuple[int, ...]
    max_action: float
    overrides: tuple[str, ...]
    batch: int = 100
    num_sampled_action: int = 10

    @property
    def latent_dim(self) -> int:
        return 2 * self.act_dim


SIZES = {
    "paper": Sizes(
        obs_dim=11,
        act_dim=3,
        hidden=(400, 300),
        vae_hidden=(750, 750),
        max_action=1.0,
        overrides=("networks=paper",),
    ),
    "small": Sizes(
        obs_dim=3,
        act_dim=1,
        hidden=(64, 64),
        vae_hidden=(64, 64),
        max_action=2.0,
        overrides=("networks=small",),
    ),
}


def step_flops(sizes: Sizes, num_sampled_action: int | None = None) -> int:
    """Floating-point operations of the matrix products one BCQ step cannot do without.

    A product of (m, k) and (k, n) counts 2mkn. Every row goes through every layer (no credit for
    sharing the first layer among the samples of one state). Gradients are counted only where they
    are used: none into data, none into the critic's weights for the actor's loss. Biases,
    activations, losses and optimizers are not counted.
    """
    batch = sizes.batch
    targets = batch * (num_sampled_action or sizes.num_sampled_action)
    pair, latent = sizes.obs_dim + sizes.act_dim, sizes.latent_dim
    encoder = (pair, *sizes.vae_hidden)
    decoder = (sizes.obs_dim + latent, *sizes.vae_hidden, sizes.act_dim)
    heads = (sizes.vae_hidden[-1], 2 * latent)
    actor = (pair, *sizes.hidden, sizes.act_dim)
    critic = (pair, *sizes.hidden, 1)

    vae = (
        2 * (_forward(encoder, batch) + _forward(heads, batch) + _forward(decoder, batch))
        + _into(encoder, batch, 0)
        + _forward(heads, batch)
        + _into(decoder, batch, latent)
    )
    target = _forward(decoder, targets) + _forward(actor, targets) + 2 * _forward(critic, targets)
    critics = 2 * (2 * _forward(critic, batch) + _into(critic, batch, 0))
    actors = (
        _forward(decoder, batch)
        + 2 * _forward(actor, batch)
        + _into(actor, batch, 0)
        + _forward(critic, batch)
        + _into(critic, batch, sizes.act_dim)
    )
    return vae + target + critics + actors


def _forward(widths: Sequence[int], rows: int) -> int:
    """A pass through linear layers; the gradient of their weights costs the same."""
    return sum(2 * rows * k * n for k, n in pairwise(widths))


def _into(widths: Sequence[int], rows: int, columns: int) -> int:
    """The gradient carried back through the layers, as far as ``columns`` of the input."""
    return _forward((columns, *widths[1:]), rows)
