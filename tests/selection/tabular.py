"""A problem of a few states whose values are known by dynamic programming, and its episodes."""

from dataclasses import dataclass

import numpy as np
from gymnasium.spaces import Box

from bcq_exp.data.datasets import Dataset
from bcq_exp.selection.importance import Episodes


def made_up(transitions, action_space, lengths, returns=None, **others):
    """A data set of episodes of these lengths, of no file and no environment."""
    if returns is None:
        returns = [part.sum() for part in np.split(transitions.rew, np.cumsum(lengths)[:-1])]
    return Dataset(
        id="made/up-v0",
        observation_space=Box(-np.inf, np.inf, transitions.obs.shape[1:]),
        action_space=action_space,
        env_spec=None,
        reference_scores=None,
        transitions=transitions,
        content_hash="",
        episode_returns=np.array(returns),
        episode_lengths=np.asarray(lengths),
        episode_rows=np.asarray(lengths),
        **others,
    )


@dataclass(frozen=True)
class Recorded:
    """E episodes of T steps: states (E, T + 1), actions, rewards, whether a step was recorded."""

    states: np.ndarray
    actions: np.ndarray
    rew: np.ndarray
    lengths: np.ndarray
    is_cut: np.ndarray


class Tabular:
    """S states and A actions at random; each step ends the task with a probability.

    Args:
        horizon: steps after which episodes are cut.
    """

    def __init__(self, horizon=6, num_states=4, num_actions=3, ends=0.1, seed=7, noise=0.1):
        rng = np.random.default_rng(seed)
        self.horizon, self.noise, self.ends = horizon, noise, ends
        self.after = rng.dirichlet(np.ones(num_states), (num_states, num_actions))  # (S, A, S)
        self.rew = rng.uniform(-1, 2, (num_states, num_actions))
        self.behaviour, self.target = (
            0.2 / num_actions + 0.8 * rng.dirichlet(2 * np.ones(num_actions), num_states)
            for _ in range(2)
        )

    def values(self, policy, gamma):
        """Q (T, S, A) and V (T + 1, S) of a policy (S, A), by backward induction."""
        v = np.zeros((self.horizon + 1, len(self.rew)))
        q = np.zeros((self.horizon, *self.rew.shape))
        for t in reversed(range(self.horizon)):
            q[t] = self.rew + gamma * (1 - self.ends) * self.after @ v[t + 1]
            v[t] = (policy * q[t]).sum(1)
        return q, v

    def value(self, policy, gamma):
        """The value of a policy where episodes begin: in any state alike."""
        return float(self.values(policy, gamma)[1][0].mean())

    def episodes(self, policy, count, rng):
        """Recorded by a policy."""
        num_states = len(self.rew)
        states = np.zeros((count, self.horizon + 1), dtype=int)
        actions = np.zeros((count, self.horizon), dtype=int)
        rew = np.zeros((count, self.horizon))
        lengths = np.full(count, self.horizon)
        running = np.ones(count, dtype=bool)
        states[:, 0] = rng.integers(num_states, size=count)
        for t in range(self.horizon):
            here = states[:, t]
            actions[:, t] = _drawn(policy[here], rng)
            found = self.rew[here, actions[:, t]] + self.noise * rng.standard_normal(count)
            rew[:, t] = np.where(running, found, 0)
            states[:, t + 1] = _drawn(self.after[here, actions[:, t]], rng)
            ended = running & (rng.random(count) < self.ends)
            lengths[ended] = t + 1
            running &= ~ended
        return Recorded(states, actions, rew, lengths, running)


def weighted(recorded, target, behaviour):
    """Recorded episodes for the estimators, by probabilities of policies (S, A)."""
    here = recorded.states[:, :-1], recorded.actions
    with np.errstate(divide="ignore"):
        log_ratios = np.log(target[here]) - np.log(behaviour[here])
    known = np.arange(recorded.rew.shape[1]) < recorded.lengths[:, None]
    # the horizon ends the task: nothing follows a cut
    return Episodes(
        recorded.rew, np.where(known, log_ratios, 0), recorded.lengths, np.zeros(len(known), bool)
    )


def model(recorded, q, v):
    """A model's values of recorded steps, as the estimators take them: (T, S, A), (T + 1, S)."""
    num_steps = recorded.rew.shape[1]
    steps = np.arange(num_steps)
    known = steps < recorded.lengths[:, None]
    of_actions = q[steps, recorded.states[:, :-1], recorded.actions]
    of_states = v[np.arange(num_steps + 1), recorded.states]
    return np.where(known, of_actions, 0), np.pad(
        np.where(known, of_states[:, :-1], 0), ((0, 0), (0, 1))
    )


def _drawn(probabilities, rng):
    return (probabilities.cumsum(-1) < rng.random((len(probabilities), 1))).sum(-1)
