"""All estimates of all policies, with their known returns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bcq_exp.config.fqe_settings import FQESettings
from bcq_exp.errors import UserError
from bcq_exp.selection.bandit import BudgetCurve, budget_curve
from bcq_exp.selection.candidates import Candidate, Evidence, policies_actions
from bcq_exp.selection.fitted_q import Callback, FittedQ, Values, ensemble_interval, estimate_row
from bcq_exp.selection.naive import naive_estimates
from bcq_exp.selection.notes import notes_of
from bcq_exp.selection.off_policy import OffPolicy, off_policy
from bcq_exp.selection.propensities import Calibration
from bcq_exp.selection.ranking import FEWEST, Measured, measured, regret, spearman

SIGNS = {  # sign of each estimator: -1 if less is better
    "fqe": 1,
    "fqe_low": 1,  # the lower end of the ensemble's interval
    "critic_value": 1,
    "td_error": -1,
}
MAIN = "fqe"
NUM_PULLS = 100  # of the online budget
REGRETS = (1, 5)


@dataclass(frozen=True)
class Selection:
    """The result of a selection.

    Args:
        policies: a row per policy, by ``fqe`` from best to worst: run, folder, step, the estimators
            of SIGNS, fqe_high, the numbers of :class:`bcq_exp.selection.off_policy.OffPolicy`,
            return_mean, discounted_return, and better: whether it is better than the behaviour
            policy by the same estimate: yes, no, or cannot tell.
        behaviour: the same for the behaviour policy: fqe with fqe_low and fqe_high, those numbers,
            and the recorded episodes' return_mean and discounted_return.
        quality: each estimator's agreement with known returns: spearman, regret@1, regret@5.
        budget: expected return of the policy chosen after N episodes, started uniformly and by fqe.
        calibration: that of the estimated behaviour policy; ``None`` for continuous actions.
        notes: sentences on the interpretation of these numbers.
        estimates: the estimate of each policy for its run's folder.
    """

    policies: pd.DataFrame
    behaviour: Mapping[str, float | None]
    quality: Mapping[str, Mapping[str, Measured]]
    budget: Mapping[str, BudgetCurve]
    calibration: Calibration | None
    notes: tuple[str, ...]
    estimates: Mapping[Path, Mapping[str, Any]]


def select(
    candidates: Sequence[Candidate],
    evidence: Evidence,
    settings: FQESettings,
    keep: Path,
    callback: Callback = lambda step, losses: None,
) -> Selection:
    """Estimate all policies, and compare the estimates with known returns.

    Args:
        keep: the file of fitted critics, from which fitting resumes.
        callback: as :meth:`bcq_exp.selection.fitted_q.FittedQ.fit` has it.

    Raises:
        UserError: if the value of the behaviour policy, as recorded, is out of the known range,
            recorded episodes are cut before the horizon, or there is only one.
    """
    _check_episodes(evidence)
    _check_horizon(evidence, settings)
    _check_range(evidence, settings)
    act_next, first_act = policies_actions(candidates, evidence, settings.seed)
    recorded_next, recorded_first = evidence.behaviours_actions
    fitted = FittedQ(
        evidence,
        np.concatenate([act_next, recorded_next[None]]),
        np.concatenate([first_act, recorded_first[None]]),
        settings,
    )
    fitted.fit(keep, callback)
    *values, of_behaviour = fitted.estimates()
    naive = naive_estimates(candidates, evidence, act_next, first_act)
    others = off_policy(candidates, evidence, fitted, settings)
    estimates = {
        each.folder: estimate_row(each.step, own, settings, **of_critic, **of_data)
        for each, own, of_critic, of_data in zip(
            candidates, values, naive, others.policies, strict=True
        )
    }
    rows = [
        {
            "run": each.name,
            "folder": str(each.folder),
            **{name: value for name, value in estimates[each.folder].items() if name != "settings"},
            "return_mean": each.return_mean,
            "discounted_return": _discounted(each, evidence, settings),
            "better": is_better(own, of_behaviour),
        }
        for each, own in zip(candidates, values, strict=True)
    ]
    numbers = [name for name in rows[0] if name not in ("run", "folder", "step", "better")]
    policies = pd.DataFrame(rows).astype(dict.fromkeys(numbers, float))
    policies = policies.sort_values("fqe", ascending=False, kind="stable", na_position="last")
    ranked = [candidates[k] for k in policies.index]
    policies = policies.reset_index(drop=True)
    quality, budget = _agreement(policies, ranked, settings.seed)
    return Selection(
        policies,
        _behaviour(evidence, of_behaviour, settings, others),
        quality,
        budget,
        others.calibration,
        tuple(notes_of(policies, ranked, evidence, settings, others)),
        estimates,
    )


def _agreement(
    policies: pd.DataFrame, ranked: Sequence[Candidate], seed: int
) -> tuple[dict[str, dict[str, Measured]], dict[str, BudgetCurve]]:
    """Compare the estimates with known returns, if there are enough: ``quality`` and ``budget``."""
    known = {k: each.returns for k, each in enumerate(ranked) if each.returns is not None}
    if len(known) < FEWEST:
        return {}, {}
    found = {name: _quality(policies.iloc[[*known]], name, seed) for name in SIGNS}
    quality = {name: of for name, of in found.items() if of["spearman"].num_policies >= FEWEST}
    episodes = list(known.values())
    budget = {"uniform": budget_curve(episodes, NUM_PULLS, None, seed)}
    if MAIN in quality:
        order = np.arange(len(known))  # as they stand
        budget[MAIN] = budget_curve(episodes, NUM_PULLS, order, seed)
    return quality, budget


def _check_episodes(evidence: Evidence) -> None:
    data, is_discrete = evidence.training, evidence.num_actions is not None
    if np.count_nonzero(data.episode_rows) < 2 and (is_discrete or not evidence.is_held_out):
        raise UserError(
            f"{data.id}: has a single episode to learn from, but actions are compared with those "
            "of other episodes; give data of several episodes"
        )


def _check_horizon(evidence: Evidence, settings: FQESettings) -> None:
    if settings.horizon is not None and settings.horizon > evidence.num_known:
        raise UserError(
            f"horizon={settings.horizon}: must be at most {evidence.num_known}, the transitions "
            "after which recorded episodes are cut, because later rewards are unknown"
        )


def _check_range(evidence: Evidence, settings: FQESettings) -> None:
    if settings.return_range is None:
        return
    low, high = settings.return_range
    mean = evidence.returns(settings.gamma, settings.horizon).mean()
    if not low <= mean <= high:
        raise UserError(
            f"return_range=[{low:g},{high:g}]: must contain the mean discounted return of the "
            f"recorded episodes, {mean:.6g}"
        )


def is_better(policy: Values, behaviour: Values) -> str:
    """Whether a policy is better than the behaviour, by the difference in each member, which sees
    the same episodes of both."""
    difference = policy.of_all.mean() - behaviour.of_all.mean()
    found = ensemble_interval(float(difference), policy.of_drawn - behaviour.of_drawn)
    return "yes" if found.low > 0 else "no" if found.high < 0 else "cannot tell"


def _behaviour(
    evidence: Evidence, values: Values, settings: FQESettings, others: OffPolicy
) -> dict[str, Any]:
    row = estimate_row(0, values, settings, **others.behaviour)
    return {
        **{name: value for name, value in row.items() if name not in ("step", "settings")},
        "discounted_return": float(evidence.returns(settings.gamma, settings.horizon).mean()),
        "return_mean": evidence.dataset.behaviour_return,
    }


def _discounted(each: Candidate, evidence: Evidence, settings: FQESettings) -> float | None:
    """A policy's discounted return, if its evaluation has the discount and horizon of the
    estimates."""
    spec = evidence.dataset.env_spec
    limit = None if spec is None else spec.max_episode_steps
    if settings.horizon is not None and (limit is None or limit > settings.horizon):
        return None
    if settings.gamma == 1:
        return each.return_mean
    return each.discounted_return if each.agent.gamma == settings.gamma else None


def _quality(policies: pd.DataFrame, estimator: str, seed: int) -> dict[str, Measured]:
    scores = SIGNS[estimator] * policies[estimator].to_numpy()
    returns = policies["return_mean"].to_numpy()
    num_scored = int(np.isfinite(scores).sum())
    found = {"spearman": measured(spearman, scores, returns, (-1, 1), seed)}
    for k in REGRETS:
        if k < num_scored:
            found[f"regret@{k}"] = measured(partial(regret, k=k), scores, returns, (0, 1), seed)
        elif k < len(policies):  # the best policy is always among them
            found[f"regret@{k}"] = Measured(math.nan, math.nan, math.nan, num_scored)
    return found
