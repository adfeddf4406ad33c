"""A small BCQ in float64, its batches and noise, and snapshots of its networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.bcq import BCQ, BCQPolicy, Noise
from bcq_exp.algorithm.networks import VAE, Critic, Perturbation
from bcq_exp.algorithm.optim import SGDOptimizerFactory

OBS_DIM, ACT_DIM, LATENT_DIM, HIDDEN = 3, 2, 4, (8, 8)
SPACE = Box(np.array([-1.0, -2.0]), np.array([1.0, 3.0]), dtype=np.float64)
SIZES: dict[str, Any] = {"obs_dim": OBS_DIM, "act_dim": ACT_DIM, "hidden_sizes": HIDDEN}
BOUNDS: dict[str, Any] = {"low": SPACE.low, "high": SPACE.high}
SOURCES = ("actor_perturbation", "critic", "critic2", "vae")
TARGETS = ("actor_perturbation_target", "critic_target", "critic2_target")


def make_policy(seed: int = 0, **kwargs: Any) -> BCQPolicy:
    torch.manual_seed(seed)
    options: dict[str, Any] = {
        "actor_perturbation": Perturbation(**SIZES, **BOUNDS, phi=0.3).double(),
        "critic": Critic(**SIZES).double(),
        "vae": VAE(**SIZES, **BOUNDS).double(),
        "action_space": SPACE,
    }
    return BCQPolicy(**{**options, **kwargs})


def make_bcq(policy: BCQPolicy | None = None, *, lr: float = 0.1, **kwargs: Any) -> BCQ:
    """With plain gradient descent, so that a network moves if and only if it has a gradient."""
    sgd = SGDOptimizerFactory(lr=lr)
    options: dict[str, Any] = {
        "policy": policy or make_policy(),
        "actor_perturbation_optim": sgd,
        "critic_optim": sgd,
        "vae_optim": sgd,
    }
    return BCQ(**{**options, **kwargs})


def make_batch(size: int = 6, seed: int = 1) -> Batch:
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    return Batch(
        obs=normal(size, OBS_DIM),
        act=normal(size, ACT_DIM).clamp(-1, 1),
        rew=normal(size),
        terminated=(torch.arange(size) % 3 == 0).double(),
        obs_next=normal(size, OBS_DIM),
    )


def make_noise(bcq: BCQ, size: int = 6, seed: int = 2) -> Noise:
    return bcq.draw_noise(size, torch.Generator().manual_seed(seed))


def network(bcq: BCQ, name: str) -> nn.Module:
    return getattr(bcq if hasattr(bcq, name) else bcq.policy, name)


def snapshot(bcq: BCQ) -> dict[str, Tensor]:
    """All parameters of each network as one vector."""
    return {
        name: nn.utils.parameters_to_vector(network(bcq, name).parameters()).detach().clone()
        for name in (*SOURCES, *TARGETS)
    }
