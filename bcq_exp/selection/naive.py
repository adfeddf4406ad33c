"""Naive estimates: a run's own critic and its Bellman error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bcq_exp.selection.candidates import Candidate, Evidence, by_one_thread_each, values


def naive_estimates(
    candidates: Sequence[Candidate], evidence: Evidence, act_next: np.ndarray, first_act: np.ndarray
) -> list[dict[str, float]]:
    """:func:`critic_value` and :func:`td_error` of P policies, whose actions are (P, N, A) and
    (P, E, A)."""

    def of(k: int) -> dict[str, float]:
        one = candidates[k]
        return {
            "critic_value": critic_value(one, evidence, first_act[k]),
            "td_error": td_error(one, evidence, act_next[k]),
        }

    return by_one_thread_each(of, range(len(candidates)))


def critic_value(candidate: Candidate, evidence: Evidence, first_act: np.ndarray) -> float:
    """The mean of Q(s_0, pi(s_0)) over first states, by the run's own critic and gamma.

    ``first_act`` is (E, A). NaN if the algorithm learns no values.
    """
    found = values(candidate.agent, evidence.first_obs, first_act, evidence)
    return float("nan") if found is None else float(found.mean())


def td_error(candidate: Candidate, evidence: Evidence, act_next: np.ndarray) -> float:
    """The root mean square of r + gamma (1 - terminated) Q(s', pi(s')) - Q(s, a), by that critic.

    ``act_next`` is (N, A). NaN if the algorithm learns no values.
    """
    t, agent = evidence.dataset.transitions, candidate.agent
    q = values(agent, t.obs, evidence.act, evidence)
    q_next = values(agent, t.obs_next, act_next, evidence)
    if q is None or q_next is None or agent.gamma is None:
        return float("nan")
    error = t.rew + agent.gamma * (1 - t.terminated) * q_next - q
    return float(np.sqrt(np.square(error).mean()))
