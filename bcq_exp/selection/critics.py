"""The critics of fitted Q evaluation: ensembles on bootstrap samples, in common units, stacked.

Each policy has an ensemble of critics (members), each on its own bootstrap sample of the episodes.
A member has the same initial weights, episodes and batches for every policy, so that policies
differ only by their actions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Discrete
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bcq_exp.algorithm.base import NoNoise
from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.fqe import FQE
from bcq_exp.algorithm.networks import Critic, StateCritic, choose_compute_dtype
from bcq_exp.algorithm.optim import AdamOptimizerFactory
from bcq_exp.config.fqe_settings import FQESettings
from bcq_exp.data.transitions import Transitions
from bcq_exp.engine.buffers import TransitionTable
from bcq_exp.engine.engine import CohortEngine, ParallelEngine
from bcq_exp.engine.placement import Placement
from bcq_exp.engine.stream import HostStream, generator, init_seed
from bcq_exp.training.evaluation import ObsNormalizer

MEMBER, EPISODES = "member", "episodes"  # purposes of random numbers


@dataclass(frozen=True)
class Units:
    """The units of critics.

    Observations have mean 0 and deviation 1, continuous actions are in [-1, 1], and rewards are
    divided by the size of a discounted sum of them, so that values are about 1.

    Args:
        low, high: bounds of an action (A,); -1 and 1 for probabilities of discrete actions, which
            are not scaled.
        scale: the size of a discounted sum of rewards, in the rewards' unit.
        value_range: bounds of any policy's value, given the recorded rewards.
    """

    normalizer: ObsNormalizer
    low: np.ndarray | float
    high: np.ndarray | float
    scale: float
    value_range: tuple[float, float]

    @classmethod
    def of(cls, transitions: Transitions, action_space: Any, settings: FQESettings) -> Units:
        size = float(np.abs(transitions.rew).mean(dtype=np.float64))
        horizon = settings.weight_of_steps(len(transitions))
        scale = size * horizon or 1.0
        worst, best = float(transitions.rew.min()), float(transitions.rew.max())
        # one reward, if an episode may end after it, or that reward for ever
        ends = min(worst, worst * horizon), max(best, best * horizon)
        low, high = settings.return_range or ends
        bounds: tuple[Any, Any] = (-1, 1)
        if not isinstance(action_space, Discrete):
            bounds = action_space.low, action_space.high
        return cls(ObsNormalizer.of(transitions.obs), *bounds, scale, (low / scale, high / scale))

    def obs(self, obs: np.ndarray) -> np.ndarray:
        return self.normalizer(obs)

    def act(self, act: np.ndarray) -> np.ndarray:
        return (2 * (act - self.low) / (self.high - self.low) - 1).astype(np.float32)

    def value(self, value: np.ndarray) -> np.ndarray:
        """Convert a critic's values to the rewards' unit."""
        return value * self.scale

    def __call__(self, t: Transitions) -> Transitions:
        return t.replace(
            obs=self.obs(t.obs),
            obs_next=self.obs(t.obs_next),
            act=self.act(t.act),
            rew=t.rew / self.scale,
        )


class ExpectedCritic(StateCritic):
    """sum_a p(a) Q(s, a): ``forward(obs, probabilities)``, (..., O) and (..., n) -> (..., 1).

    A recorded action has probability 1, so that the result is its value; for a policy it is V(s).
    """

    def forward(self, obs: Tensor, probabilities: Tensor) -> Tensor:  # type: ignore[override]
        return (super().forward(obs) * probabilities).sum(-1, keepdim=True)


class PolicyTable(TransitionTable):
    """Transitions with the next action of the policy that each stacked run evaluates.

    Args:
        table: the transitions that all runs share.
        act_next: each policy's next actions (P, N, A).
        rows: the transitions of each member (M, R), padded to the longest.
        policy, member: the policy and member of each run (K,).
    """

    def __init__(
        self, table: Tensor, sizes: tuple[int, int], act_next: Tensor, rows: Tensor, policy: Tensor,
        member: Tensor,
    ) -> None:  # fmt: skip
        super().__init__(table, *sizes)
        self._act_next, self._chosen = act_next.flatten(0, 1), rows.flatten()
        self._policy = (policy * act_next.shape[1]).unsqueeze(-1)  # (K, 1)
        self._member = (member * rows.shape[1]).unsqueeze(-1)

    def gather(self, indices: Tensor) -> Tensor:
        """Gather rows with the next action behind them, for indices (..., K, B) or (..., B)."""
        own, policy = self._member + indices.to(self._device), self._policy
        if len(policy) == 1:  # no dimension of runs
            own, policy = own.reshape(indices.shape), policy.squeeze(0)
        rows = self._chosen.index_select(0, own.reshape(-1)).reshape(indices.shape)
        act_next = self._act_next.index_select(0, (policy + rows).reshape(-1))
        return torch.cat(
            [super().gather(rows), act_next.reshape(*indices.shape, act_next.shape[-1])], -1
        )

    @property
    def width(self) -> int:
        return super().width + self._act_next.shape[-1]

    def batch(self, rows: Tensor) -> Batch:
        own = super().width
        found = super().batch(rows[..., :own])
        return Batch(**vars(found), act_next=rows[..., own:])


def stacked_critics(
    transitions: Transitions,
    episode_rows: np.ndarray,
    drawn: Sequence[np.ndarray],
    act_next: np.ndarray,
    units: Units,
    settings: FQESettings,
    placement: Placement,
    *,
    is_discrete: bool,
) -> ParallelEngine:
    """Make the critics of all policies; a policy's members are neighbours.

    Stacks are of equal size, as many as keep every thread busy to the end.

    Args:
        episode_rows: transitions of each episode (E,).
        drawn: the episodes of each member (E,).
        act_next: each policy's action after the transitions (P, N, A).
    """
    dtype, device = placement.precision.dtype, placement.device
    sizes = transitions.obs.shape[1], transitions.act.shape[1]
    network = ExpectedCritic if is_discrete else Critic
    table = TransitionTable.of(transitions, dtype, device, units)
    acts = torch.as_tensor(units.act(act_next), dtype=dtype, device=device)
    seen = [_rows_of(episodes, episode_rows) for episodes in drawn]
    rows = pad_sequence(seen, batch_first=True).to(device)
    streams = [
        HostStream(_member_seed(settings, m), len(own), settings.batch_size, NoNoise())
        for m, own in enumerate(seen)
    ]
    count = len(act_next) * settings.num_members

    def critic(member: int) -> FQE:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(init_seed(_member_seed(settings, member)))
            made = network(obs_dim=sizes[0], act_dim=sizes[1], hidden_sizes=settings.hidden_sizes)
        made.to(dtype=dtype, device=device)
        choose_compute_dtype(made, placement.precision.compute_dtype)
        return FQE(
            critic=made,
            critic_optim=AdamOptimizerFactory(lr=settings.lr),
            gamma=settings.gamma,
            tau=settings.target_tau,
            v_min=units.value_range[0],
            v_max=units.value_range[1],
        )

    rounds = math.ceil(count / placement.group_size)
    num_stacks = min(count, rounds * placement.num_stacks(count))
    executor, engines = placement.executor(), []
    for numbers in torch.arange(count, device=device).tensor_split(num_stacks):
        policy, member = numbers // settings.num_members, numbers % settings.num_members
        engines.append(
            CohortEngine(
                [critic(m) for m in member.tolist()],
                PolicyTable(table.rows, sizes, acts, rows, policy, member),
                [streams[m] for m in member.tolist()],
                executor,
            )
        )
    return ParallelEngine(engines, placement.num_threads)


def drawn_episodes(settings: FQESettings, num_episodes: int) -> list[np.ndarray]:
    """Draw each member's bootstrap sample: E episodes with replacement (E,)."""
    seeds = [_member_seed(settings, m) for m in range(settings.num_members)]
    return [generator(s, EPISODES).integers(num_episodes, size=num_episodes) for s in seeds]


def _member_seed(settings: FQESettings, member: int) -> int:
    """The seed of a member's weights, episodes and batches, distinct for each seed and member."""
    return int(generator(settings.seed, MEMBER, member).integers(2**31))


def _rows_of(episodes: np.ndarray, episode_rows: np.ndarray) -> Tensor:
    """The transitions of episodes; an episode that was drawn twice counts twice."""
    starts = np.cumsum(episode_rows) - episode_rows
    rows = [np.arange(starts[e], starts[e] + episode_rows[e]) for e in episodes]
    return torch.from_numpy(np.concatenate(rows))
