"""Estimates of policies from recorded episodes, in addition to fitted Q evaluation.

For discrete actions these are importance sampling, doubly robust estimates and the effective sample
sizes of both. They do not exist for continuous actions, because a policy has no probability of a
recorded action. For both, there is the share of a policy's actions that the data support.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan

import numpy as np

from bcq_exp.config.fqe_settings import FQESettings
from bcq_exp.data.datasets import Dataset
from bcq_exp.selection.candidates import Candidate, Evidence, by_one_thread_each, policy_actions
from bcq_exp.selection.critics import Units
from bcq_exp.selection.fitted_q import FittedQ
from bcq_exp.selection.importance import (
    Episodes,
    doubly_robust,
    effective_sizes,
    per_decision_importance,
    trajectory_importance,
)
from bcq_exp.selection.propensities import Calibration, calibration, fit_behaviour
from bcq_exp.selection.support import NearestActions, discrete_support

FEWEST_EFFECTIVE = 5  # episodes that weighted estimates need
ESTIMATES = ("wis", "pdwis", "dr")  # weighted estimates


@dataclass(frozen=True)
class OffPolicy:
    """The estimates of each policy and of the behaviour policy.

    Args:
        policies, behaviour: ``support``; for discrete actions also ESTIMATES with ``_low`` and
            ``_high``, and ``ess`` and ``ess_least`` (:class:`EffectiveSizes`). NaN: not available.
        calibration: that of the estimated behaviour policy; ``None`` for continuous actions.
        recorded_log_loss: the log loss of recorded probabilities, if the data set has them.
    """

    policies: Sequence[Mapping[str, float]]
    behaviour: Mapping[str, float]
    calibration: Calibration | None = None
    recorded_log_loss: float | None = None


def off_policy(
    candidates: Sequence[Candidate], evidence: Evidence, fitted: FittedQ, settings: FQESettings
) -> OffPolicy:
    """Estimate the policies.

    Args:
        fitted: critics of the candidates in their order, then of the behaviour policy.
    """
    if evidence.num_actions is None:
        return _of_continuous(candidates, evidence, settings)
    return _of_discrete(candidates, evidence, fitted, settings)


def _of_continuous(
    candidates: Sequence[Candidate], evidence: Evidence, settings: FQESettings
) -> OffPolicy:
    recorded, asked = evidence.training.transitions, evidence.dataset.transitions
    if not evidence.is_held_out:  # neighbours must be of other episodes
        is_odd = np.repeat(np.arange(len(evidence.episode_rows)) % 2 == 1, evidence.episode_rows)
        recorded, asked = asked[~is_odd], asked[is_odd]
    units = Units.of(recorded, evidence.dataset.action_space, settings)
    nearest = NearestActions(recorded, asked, units, settings.seed)

    def of(one: Candidate) -> dict[str, float]:
        act = policy_actions(one.agent, nearest.obs, evidence, settings.seed)
        return {"support": nearest.share(act)}

    return OffPolicy(by_one_thread_each(of, candidates), {"support": nearest.share(nearest.act)})


def _of_discrete(
    candidates: Sequence[Candidate], evidence: Evidence, fitted: FittedQ, settings: FQESettings
) -> OffPolicy:
    judged, num_actions = evidence.dataset, evidence.num_actions
    assert num_actions is not None
    obs, index = judged.transitions.obs, _indices(judged)
    behaviour, calibrated = _behaviour(evidence, num_actions, settings)
    taken = behaviour[np.arange(len(index)), index]
    given = judged.behaviour_prob
    kept = evidence.kept(settings.horizon)

    def of(
        k: int, policy: np.ndarray, soft: np.ndarray, log_ratios: np.ndarray
    ) -> dict[str, float]:
        weighted = _weighted(fitted, k, soft[kept], log_ratios[kept], settings)
        return {**weighted, "support": discrete_support(policy, behaviour)}

    rows = []
    log_taken = np.log(taken if given is None else given)
    for k, one in enumerate(candidates):
        policy = policy_actions(one.agent, obs, evidence, settings.seed)
        soft = (1 - settings.epsilon) * policy.astype(np.float64) + settings.epsilon / num_actions
        with np.errstate(divide="ignore"):  # an action never taken has weight 0
            log_ratios = np.log(soft[np.arange(len(index)), index]) - log_taken
        rows.append(of(k, policy, soft, log_ratios))
    own = of(len(candidates), evidence.act, evidence.act, np.zeros(len(index)))
    loss = None if given is None else float(-log_taken.mean())
    return OffPolicy(rows, own, calibrated, loss)


def _weighted(
    fitted: FittedQ, k: int, policy: np.ndarray, log_ratios: np.ndarray, settings: FQESettings
) -> dict[str, float]:
    """Weighted estimates of one policy, whose probabilities in recorded states are (n, A)."""
    t, rows = fitted.recorded, fitted.episode_rows
    is_cut = ~t.terminated[np.cumsum(rows) - 1]
    episodes = Episodes.of(t.rew, log_ratios, rows, is_cut)
    sizes = effective_sizes(episodes)
    found = {"ess": sizes.of_episodes, "ess_least": sizes.least}
    names = [f"{name}{end}" for name in ESTIMATES for end in ("", "_low", "_high")]
    if sizes.of_episodes < FEWEST_EFFECTIVE:
        return {**dict.fromkeys(names, nan), **found}
    gamma = settings.gamma
    ratios = (
        trajectory_importance(episodes, gamma),
        per_decision_importance(episodes, gamma),
        doubly_robust(episodes, gamma, *fitted.recorded_values(k, policy)),
    )
    ends = [end for each in ratios for end in each.interval(sizes.of_episodes, settings.seed)]
    return {**dict(zip(names, ends, strict=True)), **found}


def _behaviour(
    evidence: Evidence, num_actions: int, settings: FQESettings
) -> tuple[np.ndarray, Calibration]:
    """Estimate b(a | s) in the recorded states (N, n), and its calibration on episodes that it was
    not fitted to."""
    training, judged = evidence.training, evidence.dataset
    rows = training.episode_rows[training.episode_rows > 0]

    def fitted(seed: int) -> tuple[np.ndarray, np.ndarray]:
        model = fit_behaviour(
            training.transitions.obs,
            _indices(training),
            rows,
            num_actions,
            settings.hidden_sizes,
            seed,
        )
        return model.probabilities(judged.transitions.obs), model.validation

    ((found, validation),) = by_one_thread_each(fitted, [settings.seed])
    if evidence.is_held_out:
        return found, calibration(found, _indices(judged), len(evidence.episode_rows))
    chosen = np.repeat(np.isin(np.arange(len(rows)), validation), rows)
    return found, calibration(found[chosen], _indices(judged)[chosen], len(validation))


def _indices(dataset: Dataset) -> np.ndarray:
    """The recorded discrete actions (N,)."""
    return dataset.transitions.act[:, 0].astype(int)
