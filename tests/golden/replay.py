"""Loads the authors' weights, batches and noise into this project's networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.bcq import BCQ, BCQPolicy, Noise
from bcq_exp.algorithm.networks import VAE, Critic, Perturbation
from bcq_exp.algorithm.optim import AdamOptimizerFactory

NAMES = ("small", "wide_actions")

# The authors' layer names -> ours. Their critic holds both Q functions.
_ACTOR = {"l1": "net.layers.0", "l2": "net.layers.1", "l3": "net.layers.2"}
_CRITIC1 = {"l1": "net.layers.0", "l2": "net.layers.1", "l3": "net.layers.2"}
_CRITIC2 = {"l4": "net.layers.0", "l5": "net.layers.1", "l6": "net.layers.2"}
_VAE = {
    "e1": "encoder.layers.0",
    "e2": "encoder.layers.1",
    "mean log_std": "encoder.layers.2",  # their two heads are the halves of one layer here
    "d1": "decoder.layers.0",
    "d2": "decoder.layers.1",
    "d3": "decoder.layers.2",
}


class Golden:
    """One file of vectors, in float64."""

    def __init__(self, name: str) -> None:
        with np.load(Path(__file__).with_name(f"{name}.npz")) as file:
            self.arrays: dict[str, np.ndarray] = dict(file)
        meta = (int(x) for x in self.arrays["meta"])
        self.obs_dim, self.act_dim, self.latent_dim, self.hidden, self.vae_hidden = (
            next(meta) for _ in range(5)
        )
        self.batch_size, self.steps, self.num_sampled_action = meta
        self.lmbda, self.tau, self.gamma, self.phi, self.max_action, self.lr = (
            float(x) for x in self.arrays["hyper"]
        )
        self.first_step = min(int(k[5:].split("/")[0]) for k in self.arrays if k[:5] == "after")

    @property
    def last_step(self) -> int:
        return self.first_step + self.steps - 1

    def tensor(self, key: str) -> Tensor:
        return torch.as_tensor(self.arrays[key], dtype=torch.float64)

    def bcq(self) -> BCQ:
        """BCQ with the authors' initial weights."""
        sizes: dict[str, Any] = {"obs_dim": self.obs_dim, "act_dim": self.act_dim}
        bound = np.full(self.act_dim, self.max_action)
        hidden = (self.hidden, self.hidden)
        critic, critic2 = (Critic(**sizes, hidden_sizes=hidden).double() for _ in range(2))
        policy = BCQPolicy(
            actor_perturbation=Perturbation(
                **sizes, hidden_sizes=hidden, low=-bound, high=bound, phi=self.phi
            ).double(),
            action_space=Box(-bound, bound, dtype=np.float64),
            critic=critic,
            vae=VAE(
                **sizes,
                hidden_sizes=(self.vae_hidden, self.vae_hidden),
                latent_dim=self.latent_dim,
                low=-bound,
                high=bound,
            ).double(),
        )
        adam = AdamOptimizerFactory(lr=self.lr)
        bcq = BCQ(
            policy=policy,
            actor_perturbation_optim=adam,
            critic_optim=adam,
            vae_optim=adam,
            critic2=critic2,
            gamma=self.gamma,
            tau=self.tau,
            lmbda=self.lmbda,
            num_sampled_action=self.num_sampled_action,
        )
        for module, state in self.networks(bcq, "init"):
            module.load_state_dict(state, strict=False)
        return bcq

    def networks(self, bcq: BCQ, when: str) -> list[tuple[nn.Module, dict[str, Tensor]]]:
        """Each network of ``bcq`` beside the authors' parameters at ``when``, under our names."""
        return [
            (module, self._state(f"{when}/{net}/", layers))
            for module, net, layers in (
                (bcq.policy.actor_perturbation, "actor", _ACTOR),
                (bcq.actor_perturbation_target, "actor_target", _ACTOR),
                (bcq.policy.critic, "critic", _CRITIC1),
                (bcq.critic2, "critic", _CRITIC2),
                (bcq.critic_target, "critic_target", _CRITIC1),
                (bcq.critic2_target, "critic_target", _CRITIC2),
                (bcq.policy.vae, "vae", _VAE),
            )
        ]

    def _state(self, prefix: str, layers: dict[str, str]) -> dict[str, Tensor]:
        return {
            f"{ours}.{kind}": torch.cat(
                [self.tensor(f"{prefix}{t}.{kind}") for t in theirs.split()]
            )
            for theirs, ours in layers.items()
            for kind in ("weight", "bias")
        }

    def batch(self, step: int) -> Batch:
        names = ("obs", "act", "rew", "terminated", "obs_next")
        batch = {name: self.tensor(f"batch{step}/{name}") for name in names}
        batch |= {name: batch[name].reshape(-1) for name in ("rew", "terminated")}
        return Batch(**batch)

    def noise(self, step: int) -> Noise:
        size = (self.batch_size, self.num_sampled_action, self.latent_dim)
        return Noise(
            self.tensor(f"noise{step}/vae_eps"),
            self.tensor(f"noise{step}/target_latent").reshape(size),
            self.tensor(f"noise{step}/actor_latent"),
        )

    def losses(self, step: int) -> dict[str, float]:
        prefix = f"loss{step}/"
        return {k[len(prefix) :]: float(v) for k, v in self.arrays.items() if k.startswith(prefix)}
