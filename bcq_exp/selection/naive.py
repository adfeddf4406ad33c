"""Naive estimates: a run's own critic and its Bellman error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gymnasium.spaces import Discrete

from bcq_exp.selection.candidates import Candidate, Evidence, by_one_thread_each, in_parts
from bcq_exp.training.evaluation import Agent


def naive_estimates(
    candidates: Sequence[Candidate], evidence: Evidence, act_next: np.ndarray, first_act: np.ndarray
) -> list[dict[str, float]]:
    """Estimate P policies, whose actions are (P, N, A) and (P, E, A), by their own critics.

    Returns:
        ``critic_value``, the mean of Q(s_0, pi(s_0)) over first states, and ``td_error``, the root
        mean square of r + gamma (1 - terminated) Q(s', pi(s')) - Q(s, a), with the run's gamma.
        NaN if the algorithm learns no values.
    """
    t = evidence.dataset.transitions

    def of(k: int) -> dict[str, float]:
        agent = candidates[k].agent
        gamma = np.nan if agent.gamma is None else agent.gamma
        q_next = _values(agent, t.obs_next, act_next[k], evidence)
        q = _values(agent, t.obs, evidence.act, evidence)
        error = t.rew + gamma * (1 - t.terminated) * q_next - q
        return {
            "critic_value": float(
                _values(agent, evidence.first_obs, first_act[k], evidence).mean()
            ),
            "td_error": float(np.sqrt(np.square(error).mean())),
        }

    return by_one_thread_each(of, range(len(candidates)))


def _values(agent: Agent, obs: np.ndarray, act: np.ndarray, evidence: Evidence) -> np.ndarray:
    """Estimate Q(s, a), (N,), of actions in the form of the evidence (N, A).

    For discrete actions, the result is the mean by their probabilities.
    """

    def value(obs: np.ndarray, act: np.ndarray) -> np.ndarray:
        found = agent.value(obs, act)
        return np.full(len(obs), np.nan) if found is None else found

    space = evidence.dataset.action_space
    if not isinstance(space, Discrete):
        return in_parts(value, obs, act)
    found = np.zeros(len(obs))
    for index in range(int(space.n)):
        rows = np.flatnonzero(act[:, index])
        if len(rows):
            taken = np.full(len(rows), index + space.start)
            found[rows] += act[rows, index] * in_parts(value, obs[rows], taken)
    return found
