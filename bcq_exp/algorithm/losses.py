"""The equations of BCQ (Fujimoto et al. 2019, arXiv:1812.02900) as pure functions.

Other algorithms share some of them.

Networks are callables, random numbers tensors and hyperparameters numbers. Equations are written
for one run; :func:`~bcq_exp.algorithm.stacking.per_run` also computes them for K stacked runs.
Shapes: B batch, n sampled actions, O observation, A action, L latent. An observation with n actions
is passed as (B, 1, O), and the networks broadcast it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import NamedTuple, ParamSpec, Protocol

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from bcq_exp.algorithm.networks import latent_clip, next_kl_weight
from bcq_exp.algorithm.stacking import per_run

P = ParamSpec("P")

ROWS_AT_ONCE = {"cpu": 2048, "cuda": 2**20}  # sampled actions; activations of 750 units fit a cache


class HasParameters(Protocol):
    """A network, or several stacked."""

    def parameters(self) -> Iterable[Tensor]:
        """Return the trainable and frozen parameters; (K, ...) for K stacked networks."""


class StateToAction(HasParameters, Protocol):
    """A deterministic policy mu(s), (B, O) -> (B, A)."""

    def __call__(self, obs: Tensor, /) -> Tensor: ...


class StateAction(HasParameters, Protocol):
    """A network of an observation and an action: the critic Q(s, a) or the perturbed action."""

    def __call__(self, obs: Tensor, act: Tensor, /) -> Tensor: ...


class ConditionalVAE(HasParameters, Protocol):
    """The generative model G(a | s)."""

    def __call__(self, obs: Tensor, act: Tensor, eps: Tensor, /) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction (B, A), posterior mean (B, L) and standard deviation (B, L)."""

    def decode(self, obs: Tensor, latent: Tensor, /) -> Tensor:
        """Actions for latents that share the leading dimensions of the result."""


class VAELoss(NamedTuple):
    """The VAE's loss and its two parts, all 0-d."""

    loss: Tensor
    recon: Tensor
    kl: Tensor


def gaussian_kl(mean: Tensor, std: Tensor) -> Tensor:
    """KL(N(mean, std^2) || N(0, 1)), averaged over batch and latent dimensions (B, L) -> ()."""
    return (-std.log() + (std.square() + mean.square() - 1) / 2).mean()


@per_run
def vae_loss(vae: ConditionalVAE, obs: Tensor, act: Tensor, eps: Tensor) -> VAELoss:
    """Negative evidence lower bound of G_omega (section 4.1, weight 1/2 as the authors' code)."""
    recon, mean, std = vae(obs, act, eps)
    recon_loss, kl = mse_loss(recon, act), gaussian_kl(mean, std)
    return VAELoss(recon_loss + next_kl_weight(vae) * kl, recon_loss, kl)


@per_run
def sampled_action(vae: ConditionalVAE, obs: Tensor, normal: Tensor) -> Tensor:
    """a ~ G_omega(s), for standard normals, which are clipped (section 4.1 and authors' code)."""
    clip = latent_clip(vae)
    return vae.decode(obs, normal.clamp(-clip, clip))


@per_run
def clipped_fraction(vae: ConditionalVAE, normal: Tensor) -> Tensor:
    """The share of standard normals that :func:`sampled_action` clips."""
    return (normal.abs() > latent_clip(vae)).to(normal.dtype).mean()


def clipped_double_q(q1: Tensor, q2: Tensor, lmbda: float | Tensor) -> Tensor:
    """Equation 13: a convex combination that weighs the minimum of two estimates by lmbda."""
    return q1.maximum(q2).lerp(q1.minimum(q2), lmbda)  # (1 - lmbda) max + lmbda min


@per_run
def lower_q(critic: StateAction, critic2: StateAction, obs: Tensor, act: Tensor) -> Tensor:
    """min_i Q_i(s, a), (B,)."""
    return critic(obs, act).minimum(critic2(obs, act)).squeeze(-1)


def bellman_target(
    value_next: Tensor, rew: Tensor, terminated: Tensor, gamma: float | Tensor
) -> Tensor:
    """Compute y = r + gamma (1 - terminated) v(s') elementwise, of ``value_next`` as v(s')."""
    return rew + gamma * (1 - terminated) * value_next


def in_parts(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Compute a function of n sampled actions a state for a few states at a time.

    All B * n actions at once would leave the processor's cache, or not fit in memory at all. The
    function treats each state by itself. It is called with networks, then tensors (B, ...), the
    first of them (B, n, ...), and with keywords for what all states share.
    """

    @wraps(function)
    def joined(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        if torch.compiler.is_exporting():  # a program for any B
            return function(*args, **kwargs)
        rows = [x for x in args if isinstance(x, Tensor)]
        size = max(1, ROWS_AT_ONCE["cuda" if rows[0].is_cuda else "cpu"] // rows[0].shape[1])
        parts = zip(*(x.split(size) for x in rows), strict=True)
        networks = args[: len(args) - len(rows)]
        return torch.cat([function(*networks, *part, **kwargs) for part in parts])  # type: ignore[arg-type]

    return joined


@per_run
@in_parts
def target_value(
    vae: ConditionalVAE,
    perturbation_target: StateAction,
    critic1_target: StateAction,
    critic2_target: StateAction,
    normal: Tensor,
    obs_next: Tensor,
    rew: Tensor,
    terminated: Tensor,
    *,
    gamma: float | Tensor,
    lmbda: float | Tensor,
) -> Tensor:
    """Equation 13's target y (B, 1), from n perturbed actions of the VAE for each next state.

    ``rew`` and ``terminated`` are (B,), ``normal`` (B, n, L). Only a termination ends the return: a
    truncated step bootstraps. Call it without gradients.
    """
    obs = obs_next.unsqueeze(1)  # (B, 1, O)
    act = perturbation_target(obs, sampled_action(vae, obs, normal))  # (B, n, A)
    q = clipped_double_q(critic1_target(obs, act), critic2_target(obs, act), lmbda)  # (B, n, 1)
    return bellman_target(q.squeeze(-1).amax(1), rew, terminated, gamma).unsqueeze(-1)


@per_run
def policy_target(
    critic: StateAction,
    obs_next: Tensor,
    act_next: Tensor,
    rew: Tensor,
    terminated: Tensor,
    gamma: float | Tensor,
) -> Tensor:
    """y = r + gamma (1 - terminated) Q(s', a') (B, 1) of a policy that does a' (B, A) in s'."""
    q = critic(obs_next, act_next).squeeze(-1)
    return bellman_target(q, rew, terminated, gamma).unsqueeze(-1)


@per_run
def critic_loss(
    critic: StateAction, obs: Tensor, act: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean squared error to a target (B, 1), equation 13; also the mean of Q itself."""
    q = critic(obs, act)
    return mse_loss(q, target), q.mean()


@per_run
def perturbation_loss(
    critic: StateAction, perturbation: StateAction, obs: Tensor, act: Tensor
) -> tuple[Tensor, Tensor]:
    """Equation 12 as a loss: minus the mean value of the perturbed action; also that action."""
    perturbed = perturbation(obs, act)
    return -critic(obs, perturbed).mean(), perturbed


@in_parts
def best_action(
    vae: ConditionalVAE, perturbation: StateAction, critic: StateAction, normal: Tensor, obs: Tensor
) -> Tensor:
    """Equation 11, the policy: of n perturbed samples a state, the one of largest Q (B, A)."""
    obs = obs.unsqueeze(1)  # (B, 1, O)
    act = perturbation(obs, sampled_action(vae, obs, normal))  # (B, n, A)
    best = critic(obs, act).argmax(1, keepdim=True)  # (B, 1, 1)
    return act.gather(1, best.expand(-1, -1, act.shape[-1])).squeeze(1)
