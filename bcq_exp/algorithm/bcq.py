"""Batch-Constrained deep Q-learning: the policy, the algorithm and its statistics."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from gymnasium.spaces import Space
from torch import Tensor, nn

from bcq_exp.algorithm import losses
from bcq_exp.algorithm.base import (
    Batch,
    LaggedNetworkPolyakUpdateAlgorithmMixin,
    OfflineAlgorithm,
    Policy,
    TrainingStats,
)
from bcq_exp.algorithm.networks import broadcasting, latent_dim
from bcq_exp.algorithm.optim import Optimizer, OptimizerFactory
from bcq_exp.algorithm.step import Hyperparameters, Networks, Noise, train_step

DEFAULT_LATENT_CLIP = 0.5  # for a VAE that names no latent_clip of its own
DEFAULT_KL_WEIGHT = 0.5  # and no kl_weight


@dataclass(kw_only=True)
class BCQTrainingStats(TrainingStats):
    """The four losses of one update: equations 12 and 13, and the VAE's."""

    actor_loss: float
    critic1_loss: float
    critic2_loss: float
    vae_loss: float


class BCQPolicy(Policy):
    """Samples actions of the VAE, perturbs them, and takes the one the critic prefers.

    Args:
        actor_perturbation: ``(obs, act) -> act``, the perturbation network.
        critic: ``(obs, act) -> (B, 1)``, the first critic.
        vae: ``(obs, act, eps) -> (reconstruction, mean, std)`` and ``decode(obs, latent) -> act``.
            Its ``latent_dim`` says how wide a noise to pass; without one it draws its own.
            ``latent_clip`` and ``kl_weight``, where it has them, replace the paper's 0.5.
        forward_sampled_times: sampled actions a state in :meth:`forward` (the paper's 100).
        action_scaling: networks work in [-1, 1], scaled to the space's bounds when acting.
        action_bound_method: how actions are kept in range (:class:`ActionMap` has the table).

    Raises:
        TypeError: if the action space is no Box.
        ValueError: if ``forward_sampled_times`` is below 1.
    """

    def __init__(
        self,
        *,
        actor_perturbation: nn.Module,
        action_space: Space,
        critic: nn.Module,
        vae: nn.Module,
        forward_sampled_times: int = 100,
        observation_space: Space | None = None,
        action_scaling: bool = False,
        action_bound_method: Literal["clip", "tanh"] | None = "clip",
    ) -> None:
        super().__init__(
            action_space=action_space,
            observation_space=observation_space,
            action_scaling=action_scaling,
            action_bound_method=action_bound_method,
        )
        if forward_sampled_times < 1:
            raise ValueError(f"forward_sampled_times is at least 1, not {forward_sampled_times}")
        self.actor_perturbation = actor_perturbation
        self.critic = critic
        self.vae = vae
        self.forward_sampled_times = forward_sampled_times

    @property
    def latent_clip(self) -> float:
        """Latents drawn from the prior are clipped to plus and minus this (0.5 in the paper)."""
        return float(getattr(self.vae, "latent_clip", DEFAULT_LATENT_CLIP))

    @torch.no_grad()
    def forward(self, batch: Any, state: Any = None, **kwargs: Any) -> Batch:
        """Actions ``.act``, an array (B, A) in the policy's unit, for ``batch.obs`` (B, *obs).

        One batched pass over all B * ``forward_sampled_times`` candidates (equation 11).
        ``generator=`` (a ``torch.Generator`` on the CPU) supplies the latents; by default torch's
        global one does. ``state`` is handed back: the policy keeps none.
        """
        obs = self.as_tensor(batch.obs)
        size = (obs.shape[0], self.forward_sampled_times, latent_dim(self.vae))
        latent = torch.randn(size, generator=kwargs.get("generator"), dtype=obs.dtype)
        latent = latent.to(obs.device).clamp_(-self.latent_clip, self.latent_clip)
        networks = (self.vae, self.actor_perturbation, self.critic)
        best_action = partial(losses.best_action, *map(broadcasting, networks))
        act = losses.in_parts(best_action, latent, obs)
        return Batch(act=act.cpu().numpy(), state=state)

    def as_tensor(self, x: Any) -> Tensor:
        """``x`` in the dtype and on the device of the critic."""
        param = next(self.critic.parameters())
        if not isinstance(x, Tensor):
            x = np.require(x, requirements="W")  # torch wants arrays it could write to
        return torch.as_tensor(x, dtype=param.dtype, device=param.device)


class BCQ(OfflineAlgorithm[BCQPolicy], LaggedNetworkPolyakUpdateAlgorithmMixin):
    """Batch-Constrained deep Q-learning (Fujimoto, Meger & Precup 2019, arXiv:1812.02900).

    Args:
        policy: the policy, with the perturbation, the first critic and the VAE.
        actor_perturbation_optim: optimizer of the perturbation.
        critic_optim: optimizer of the first critic.
        vae_optim: optimizer of the VAE.
        critic2: the second critic; ``None`` clones the first and draws its weights anew (two equal
            critics would stay equal, and ``lmbda`` would do nothing).
        critic2_optim: optimizer of the second critic; ``None`` is ``critic_optim``.
        gamma: discount factor, in [0, 1].
        tau: share of the source that a target network takes each step, in (0, 1].
        lmbda: weight of the minimum in clipped double Q-learning, in [0, 1].
        num_sampled_action: sampled actions a next state in the target (the paper's 10).

    Raises:
        ValueError: if a number is out of its range, or no weight of the clone can be redrawn.
    """

    def __init__(
        self,
        *,
        policy: BCQPolicy,
        actor_perturbation_optim: OptimizerFactory,
        critic_optim: OptimizerFactory,
        vae_optim: OptimizerFactory,
        critic2: nn.Module | None = None,
        critic2_optim: OptimizerFactory | None = None,
        gamma: float = 0.99,
        tau: float = 0.005,
        lmbda: float = 0.75,
        num_sampled_action: int = 10,
    ) -> None:
        super().__init__(policy=policy)
        for name, value, valid, allowed in (
            ("gamma", gamma, 0 <= gamma <= 1, "in [0, 1]"),
            ("tau", tau, 0 < tau <= 1, "in (0, 1]"),
            ("lmbda", lmbda, 0 <= lmbda <= 1, "in [0, 1]"),
            ("num_sampled_action", num_sampled_action, num_sampled_action >= 1, "at least 1"),
        ):
            if not valid:
                raise ValueError(f"{name} is {allowed}, not {value}")
        self.gamma, self.tau, self.lmbda = gamma, tau, lmbda
        self.num_sampled_action = num_sampled_action
        self.critic2 = _redrawn(policy.critic) if critic2 is None else critic2
        self.actor_perturbation_target = self._add_lagged_network(policy.actor_perturbation)
        self.critic_target = self._add_lagged_network(policy.critic)
        self.critic2_target = self._add_lagged_network(self.critic2)
        self._optimizers = {
            "actor_perturbation": actor_perturbation_optim.create(
                policy.actor_perturbation.parameters()
            ),
            "critic": critic_optim.create(policy.critic.parameters()),
            "critic2": (critic2_optim or critic_optim).create(self.critic2.parameters()),
            "vae": vae_optim.create(policy.vae.parameters()),
        }

    def draw_noise(self, batch_size: int, generator: torch.Generator | None = None) -> Noise:
        """The random numbers of one step, from ``generator`` or torch's global one, on the CPU."""
        width = latent_dim(self.policy.vae)
        dtype = next(self.policy.critic.parameters()).dtype
        vae_eps, target_latent, actor_latent = (
            torch.randn(*size, width, generator=generator, dtype=dtype)
            for size in ((batch_size,), (batch_size, self.num_sampled_action), (batch_size,))
        )
        return Noise(vae_eps, target_latent, actor_latent)

    def gradient_step(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """One step of algorithm 1 on tensors: the VAE, the critics, the actor, then the targets.

        ``batch`` holds float tensors ``obs (B, O), act (B, A), rew (B,), terminated (B,), obs_next
        (B, O)``. Returns the STATISTICS, 0-d tensors by name; nothing is synchronized with a GPU.
        """
        statistics = self.tensor_step(batch, noise)
        self.after_steps(1)
        return statistics

    def tensor_step(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """The tensor work of :meth:`gradient_step`, which a capture can hold."""
        statistics = train_step(
            self.networks, self._optimizers, self.hyperparameters, batch, noise, _of_one_run
        )
        self._update_lagged_network_weights()
        return statistics

    @property
    def networks(self) -> Networks:
        """The seven networks, as the losses call them."""
        policy = self.policy
        return Networks(
            vae=broadcasting(policy.vae),
            perturbation=broadcasting(policy.actor_perturbation),
            critic=broadcasting(policy.critic),
            critic2=broadcasting(self.critic2),
            perturbation_target=broadcasting(self.actor_perturbation_target),
            critic_target=broadcasting(self.critic_target),
            critic2_target=broadcasting(self.critic2_target),
        )

    @property
    def hyperparameters(self) -> Hyperparameters:
        """The numbers of the equations."""
        return Hyperparameters(
            gamma=self.gamma,
            lmbda=self.lmbda,
            tau=self.tau,
            latent_clip=self.policy.latent_clip,
            kl_weight=float(getattr(self.policy.vae, "kl_weight", DEFAULT_KL_WEIGHT)),
        )

    def after_steps(self, count: int) -> None:
        """The host's work of ``count`` steps: learning-rate schedules."""
        for optimizer in self._optimizers.values():
            optimizer.after_steps(count)

    @property
    def has_stepped(self) -> bool:
        """Whether a gradient step was taken, so that every optimizer has its state."""
        return self._optimizers["vae"].num_steps > 0

    @property
    def has_schedule(self) -> bool:
        """Whether the host has to change a learning rate after each step."""
        return any(o.factory.schedule is not None for o in self._optimizers.values())

    @property
    def can_be_captured(self) -> bool:
        """Whether a gradient step runs the same kernels on the same tensors every time.

        So it is for this project's networks; what a user's own do in Python cannot be known.
        """
        return self.has_own_networks and all(
            optimizer.can_be_captured for optimizer in self._optimizers.values()
        )

    @property
    def has_own_networks(self) -> bool:
        """Whether every network is one of this project's."""
        return all(isinstance(net, nn.Module) for net in self.networks)

    @property
    def optimizers(self) -> dict[str, Optimizer]:
        """The four optimizers, by the name of the network."""
        return self._optimizers

    def state_tensors(self) -> list[Tensor]:
        """Every tensor that a gradient step changes: parameters, targets, optimizers."""
        optimizers = self._optimizers.values()
        return [*self.parameters(), *(x for o in optimizers for x in o.state_tensors())]

    def _update_with_batch(self, batch: Any) -> BCQTrainingStats:
        names = ("obs", "act", "rew", "terminated", "obs_next")
        tensors = {name: self.policy.as_tensor(getattr(batch, name)) for name in names}
        size = tensors["obs"].shape[0]
        tensors |= {name: tensors[name].reshape(size) for name in ("rew", "terminated")}
        noise = self.draw_noise(size)
        device = tensors["obs"].device
        noise = Noise(*(x.to(device) for x in noise))
        statistics = self.gradient_step(Batch(**tensors), noise)
        return BCQTrainingStats(
            actor_loss=statistics["actor_loss"].item(),
            critic1_loss=statistics["critic1_loss"].item(),
            critic2_loss=statistics["critic2_loss"].item(),
            vae_loss=statistics["vae_loss"].item(),
        )


def _of_one_run(function: Callable) -> Callable:
    return function


def _redrawn(network: nn.Module) -> nn.Module:
    """A copy of a network with its own random weights, the same on any device, in any dtype."""
    clone = copy.deepcopy(network)
    drawn = copy.deepcopy(network).to("cpu", torch.get_default_dtype())
    for module, source in zip(clone.modules(), drawn.modules(), strict=True):
        reset = getattr(source, "reset_parameters", None)
        if callable(reset):
            reset()
            module.load_state_dict(source.state_dict())
    pairs = list(zip(clone.parameters(), network.parameters(), strict=True))
    if pairs and all(torch.equal(new, old) for new, old in pairs):
        raise ValueError(
            "no layer of the critic has reset_parameters(), so its clone would equal it for ever "
            "and lmbda would do nothing: pass critic2"
        )
    return clone
