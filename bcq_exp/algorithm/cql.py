"""Conservative Q-learning (Kumar et al. 2020, arXiv:2006.04779): CQL(H) on soft actor-critic.

    L_Qi = E[ (Q_i(s, a) - y)^2 ] + cql_alpha E[ log sum_a' exp Q_i(s, a') - Q_i(s, a) ]
    y    = r + gamma (1 - terminated) min_j Q'_j(s', a'),        a' ~ pi(. | s')
    L_pi = E[ alpha log pi(a' | s) - min_i Q_i(s, a') ],         a' ~ pi(. | s)

Equation 4, its log-sum-exp estimated by importance sampling as in appendix F: n actions each of the
uniform distribution, of pi(. | s) and of pi(. | s'), each with weight 1 / density. Soft
actor-critic (Haarnoja et al. 2018, arXiv:1812.05905) has twin critics, a tanh of a Gaussian for a
policy, and an ``alpha`` that keeps the policy's entropy at -A, A the action's dimension.

Where the paper and its authors' code differ, this follows the code: the squared error has no factor
1/2, the sum no factor 1 / 3n (a constant), and ``deterministic_backup`` leaves the entropy out of
y. The code also clones the behaviour for its first 40,000 steps, which it calls of little effect,
and has a Lagrange variant that tunes ``cql_alpha``; neither is here. Densities are of actions in
units of half their range, as the authors' actions of [-1, 1] are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, softplus

from bcq_exp.algorithm import losses
from bcq_exp.algorithm.alerts import Watch
from bcq_exp.algorithm.base import Optimizers, polyak_update
from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.hyperparameters import CQLHyperparameters
from bcq_exp.algorithm.losses import StateAction, StateToAction
from bcq_exp.algorithm.mlp import frozen
from bcq_exp.algorithm.networks import Critic, GaussianActor, SquashedMean, UnitActions
from bcq_exp.algorithm.optim import OptimizerFactory, optimizer_for
from bcq_exp.algorithm.parts import Parts
from bcq_exp.algorithm.policy import GaussianPolicy
from bcq_exp.algorithm.stacking import per_run
from bcq_exp.algorithm.twin_critics import TwinCriticAlgorithm, TwinCriticTrainingStats

LOG_STD_RANGE = (-20.0, 2.0)  # the authors' clamp


@dataclass(kw_only=True)
class CQLTrainingStats(TwinCriticTrainingStats):
    """The losses of one update; a critic's is the sum of its two parts."""

    alpha_loss: float


class EntropyCoefficient(nn.Module):
    """log alpha (), a parameter that starts at 0."""

    pure = True

    def __init__(self) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.zeros(1))

    def forward(self) -> Tensor:
        return self.log_alpha.squeeze(-1)


class Networks(NamedTuple):
    """The networks of a run, or of K stacked ones; ``actor`` returns means and log std (B, 2 A)."""

    actor: StateToAction
    critic: StateAction
    critic2: StateAction
    critic_target: StateAction
    critic2_target: StateAction
    alpha: EntropyCoefficient
    unit: UnitActions


class Noise(NamedTuple):
    """Standard normals of one action a state (B, A), and of n a state (B, n, A).

    ``uniform`` becomes uniform by the normal distribution function.
    """

    actor: Tensor
    target: Tensor
    uniform: Tensor
    policy: Tensor
    policy_next: Tensor


class Sample(NamedTuple):
    """Actions (..., A) in the policy's unit, and their log densities (...,)."""

    act: Tensor
    log_prob: Tensor


class CriticLoss(NamedTuple):
    """A critic's loss, its two parts, and the mean of Q, all 0-d."""

    loss: Tensor
    td: Tensor
    conservative: Tensor
    q_mean: Tensor


@per_run
def policy_sample(actor: StateToAction, unit: UnitActions, obs: Tensor, eps: Tensor) -> Sample:
    """a = tanh(m + s eps) for eps (B, A), or n actions a state for eps (B, n, A).

    log pi(a | s) = log N(m + s eps; m, s) - log(1 - a^2), summed over dimensions.
    """
    parameters = actor(obs)
    if eps.dim() > parameters.dim():
        parameters = parameters.unsqueeze(1)  # (B, 1, 2 A)
    mean, log_std = parameters.chunk(2, -1)
    log_std = log_std.clamp(*LOG_STD_RANGE)
    x = mean + log_std.exp() * eps
    log_normal = -eps.square() / 2 - log_std - math.log(2 * math.pi) / 2
    log_slope = 2 * (math.log(2) - x - softplus(-2 * x))  # log(1 - tanh(x)^2), exact for large |x|
    return Sample(unit.decode(x.tanh()), (log_normal - log_slope).sum(-1))


@per_run
def uniform_sample(unit: UnitActions, normal: Tensor) -> Sample:
    """Actions uniform in their range: 2 Phi(z) - 1 = erf(z / sqrt 2) of standard normals z."""
    act = unit.decode((normal / math.sqrt(2)).erf())
    log_prob = torch.full_like(normal[..., 0], -normal.shape[-1] * math.log(2))
    return Sample(act, log_prob)


@per_run
def sampled_actions(
    actor: StateToAction,
    unit: UnitActions,
    obs: Tensor,
    obs_next: Tensor,
    uniform: Tensor,
    eps: Tensor,
    eps_next: Tensor,
) -> Sample:
    """The 3 n actions (B, 3 n, A) of the log-sum-exp; call it without gradients."""
    parts = (
        uniform_sample(unit, uniform),
        policy_sample(actor, unit, obs, eps),
        policy_sample(actor, unit, obs_next, eps_next),
    )
    return Sample(*(torch.cat(each, 1) for each in zip(*parts, strict=True)))


@per_run
def target_value(
    actor: StateToAction,
    critic_target: StateAction,
    critic2_target: StateAction,
    alpha: EntropyCoefficient,
    unit: UnitActions,
    eps: Tensor,
    obs_next: Tensor,
    rew: Tensor,
    terminated: Tensor,
    deterministic_backup: float | Tensor,
    gamma: float | Tensor,
) -> Tensor:
    """y (B, 1), of the lower target critic; less alpha log pi unless ``deterministic_backup``."""
    act, log_prob = policy_sample(actor, unit, obs_next, eps)
    q = losses.lower_q(critic_target, critic2_target, obs_next, act)
    q = q - (1 - deterministic_backup) * alpha().exp() * log_prob
    return losses.bellman_target(q, rew, terminated, gamma).unsqueeze(-1)


@per_run
def critic_loss(
    critic: StateAction,
    obs: Tensor,
    act: Tensor,
    target: Tensor,
    act_sampled: Tensor,
    log_density: Tensor,
    cql_alpha: float | Tensor,
) -> CriticLoss:
    """Equation 4 of one critic, its log-sum-exp over sampled actions (B, 3 n, A)."""
    q = critic(obs, act)
    q_sampled = critic(obs.unsqueeze(1), act_sampled).squeeze(-1)  # (B, 3 n)
    td = mse_loss(q, target)
    conservative = (q_sampled - log_density).logsumexp(-1).mean() - q.mean()
    return CriticLoss(td + cql_alpha * conservative, td, conservative, q.mean())


@per_run
def alpha_loss(alpha: EntropyCoefficient, entropy: Tensor, target_entropy: float) -> Tensor:
    """log alpha (-log pi - target entropy), averaged; ``entropy`` is -log pi (B,)."""
    return (alpha() * (entropy - target_entropy)).mean()


@per_run
def alpha_value(alpha: EntropyCoefficient) -> Tensor:
    """alpha, ()."""
    return alpha().exp()


@per_run
def actor_loss(
    critic: StateAction,
    critic2: StateAction,
    alpha: EntropyCoefficient,
    obs: Tensor,
    act: Tensor,
    log_prob: Tensor,
) -> Tensor:
    """Mean of alpha log pi(a | s) - min_i Q_i(s, a); alpha passes no gradient."""
    q = losses.lower_q(critic, critic2, obs, act)
    return (alpha().exp().detach() * log_prob - q).mean()


def train_step(
    nets: Networks,
    optimizers: Optimizers,
    hyper: CQLHyperparameters,
    batch: Batch,
    noise: Noise,
) -> dict[str, Tensor]:
    """A :class:`~bcq_exp.algorithm.base.Step`: alpha, then actor and critics, then targets.

    The critics learn from actions of the actor as it was, the actor from the critics as they were.
    """
    pi = policy_sample(nets.actor, nets.unit, batch.obs, noise.actor)
    entropy = -pi.log_prob.detach()
    entropy_loss = alpha_loss(nets.alpha, entropy, -batch.act.shape[-1])
    optimizers["alpha"].apply(entropy_loss)
    with torch.no_grad():
        alpha = alpha_value(nets.alpha)
        target = target_value(
            nets.actor,
            nets.critic_target,
            nets.critic2_target,
            nets.alpha,
            nets.unit,
            noise.target,
            batch.obs_next,
            batch.rew,
            batch.terminated,
            hyper.deterministic_backup,
            hyper.gamma,
        )
        sampled = sampled_actions(
            nets.actor,
            nets.unit,
            batch.obs,
            batch.obs_next,
            noise.uniform,
            noise.policy,
            noise.policy_next,
        )
    with frozen(nets.critic), frozen(nets.critic2):
        pi_loss = actor_loss(nets.critic, nets.critic2, nets.alpha, batch.obs, pi.act, pi.log_prob)
        optimizers["actor"].apply(pi_loss)
    one, two = (
        critic_loss(critic, batch.obs, batch.act, target, *sampled, hyper.cql_alpha)
        for critic in (nets.critic, nets.critic2)
    )
    optimizers["critic"].apply(one.loss)
    optimizers["critic2"].apply(two.loss)
    polyak_update((nets.critic_target, nets.critic2_target), (nets.critic, nets.critic2), hyper.tau)
    return {
        "actor_loss": pi_loss,
        "critic1_loss": one.loss,
        "critic2_loss": two.loss,
        "alpha_loss": entropy_loss,
        "td_loss": (one.td + two.td) / 2,
        "conservative_loss": (one.conservative + two.conservative) / 2,
        "q1_mean": one.q_mean,
        "q2_mean": two.q_mean,
        "target_q_mean": target.mean((-2, -1)),
        "alpha": alpha,
        "entropy": entropy.mean(-1),
    }


class CQL(TwinCriticAlgorithm[GaussianPolicy]):
    """CQL(H) on soft actor-critic.

    Args:
        policy: with the Gaussian that learns.
        critic: ``(obs, act) -> (B, 1)``, the first critic; the second has other initial weights.
        alpha: the entropy's coefficient.
        actor_optim: optimizer of the actor, and of ``alpha``, as in the authors' code.
        critic_optim: optimizer of each critic.
        hyperparameters: of :class:`CQLHyperparameters`.

    Raises:
        ValueError: if a number is out of its range, or no weight of the second critic can be drawn.
    """

    training_stats = CQLTrainingStats
    diagnostics = (
        "td_loss",
        "conservative_loss",
        "q1_mean",
        "q2_mean",
        "target_q_mean",
        "alpha",
        "entropy",
    )
    watches = (
        *TwinCriticAlgorithm.watches,
        Watch("diverging entropy coefficient", ("alpha",), diverging=True),
    )
    Hyperparameters = CQLHyperparameters
    reads = ("policy", "actor", "critic", "actor_optim", "critic_optim")
    network_kinds = {"actor": GaussianActor, "critic": Critic}
    steps = (train_step,)

    def __init__(
        self,
        *,
        policy: GaussianPolicy,
        critic: nn.Module,
        alpha: EntropyCoefficient,
        actor_optim: OptimizerFactory,
        critic_optim: OptimizerFactory,
        **hyperparameters: Any,
    ) -> None:
        super().__init__(policy=policy, critic=critic, critic_optim=critic_optim, **hyperparameters)
        self.alpha = alpha
        self.optimizers |= {
            "actor": optimizer_for(policy.actor.gaussian, actor_optim),
            "alpha": optimizer_for(alpha, actor_optim),
        }

    @classmethod
    def build(cls, parts: Parts) -> Self:
        mean = SquashedMean(parts.network("actor"), parts.place(UnitActions(**parts.bounds)))
        return cls(
            policy=GaussianPolicy(actor=mean, **parts.policy),
            critic=parts.network("critic"),
            alpha=parts.place(EntropyCoefficient()),
            actor_optim=parts.optimizer("actor_optim"),
            critic_optim=parts.optimizer("critic_optim"),
            **parts.hyperparameters,
        )

    @property
    def networks(self) -> Networks:
        return Networks(
            actor=self.policy.actor.gaussian,
            alpha=self.alpha,
            unit=self.policy.actor.unit,
            **self.critics,
        )

    def noise_shapes(self, batch_size: int) -> Any:
        one = (batch_size, *self.policy.actor.unit.low.shape)
        several = (batch_size, self.hyperparameters.num_sampled_action, *one[1:])
        shapes: dict[str, Any] = {
            "actor": one,
            "target": one,
            "uniform": several,
            "policy": several,
            "policy_next": several,
        }
        return Noise(**shapes)
