"""Every estimate of every policy, side by side with what is known of its returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bcq_exp.config.fqe import FQESettings
from bcq_exp.selection.bandit import BudgetCurve, budget_curve
from bcq_exp.selection.candidates import Candidate, Evidence, policies_actions
from bcq_exp.selection.fit import FittedQ, Told, estimate_row
from bcq_exp.selection.naive import critic_value, td_error
from bcq_exp.selection.ranking import Measured, measured, regret, spearman

SIGNS = {  # of each estimator: -1 where less is better
    "fqe": 1,
    "fqe_low": 1,  # what the value is at least, as the ensemble sees it
    "critic_value": 1,
    "td_error": -1,
}
MAIN = "fqe"
NUM_PULLS = 100  # of the online budget
FEWEST = 3  # policies, of which a ranking can be right or wrong
REGRETS = (1, 5)


@dataclass(frozen=True)
class Selection:
    """What there is to choose by.

    Args:
        policies: a row a policy, by ``fqe`` from best to worst: run, folder, step, the estimators
            of SIGNS, fqe_high, return_mean and discounted_return.
        quality: of each estimator against the known returns: spearman, regret@1, regret@5.
        budget: expected return of the policy chosen after N episodes, started uniformly and by fqe.
        notes: what has to be known of all this, in words.
        estimates: what is kept of each policy in its run's folder.
    """

    policies: pd.DataFrame
    quality: Mapping[str, Mapping[str, Measured]]
    budget: Mapping[str, BudgetCurve]
    notes: tuple[str, ...]
    estimates: Mapping[Path, Mapping[str, Any]]


def select(
    candidates: Sequence[Candidate],
    evidence: Evidence,
    settings: FQESettings,
    keep: Path,
    told: Told = lambda step, losses: None,
) -> Selection:
    """Estimate, and hold the estimates against the returns where they are known.

    Args:
        keep: the file that fitted critics are kept in, to go on from.
        told: as :meth:`bcq_exp.selection.fit.FittedQ.fit` has it.
    """
    act_next, first_act = policies_actions(candidates, evidence, settings.seed)
    fitted = FittedQ(evidence, act_next, first_act, settings)
    fitted.fit(keep, told)
    estimates = {
        each.folder: estimate_row(
            each.step,
            values,
            settings,
            critic_value=critic_value(each, evidence, first_act[k]),
            td_error=td_error(each, evidence, act_next[k]),
        )
        for k, (each, values) in enumerate(zip(candidates, fitted.estimates(), strict=True))
    }
    rows = [
        {
            "run": each.name,
            "folder": str(each.folder),
            **{name: value for name, value in estimates[each.folder].items() if name != "settings"},
            "return_mean": each.return_mean,
            "discounted_return": each.discounted_return
            if each.agent.gamma == settings.gamma
            else None,
        }
        for each in candidates
    ]
    numbers = [name for name in rows[0] if name not in ("run", "folder", "step")]
    policies = pd.DataFrame(rows).astype(dict.fromkeys(numbers, float))
    policies = policies.sort_values("fqe", ascending=False, kind="stable", na_position="last")
    returns = [candidates[k].returns for k in policies.index]
    policies = policies.reset_index(drop=True)
    gammas = [each.agent.gamma for each in candidates]
    notes = [
        *_of_evidence(evidence),
        *_of_first(policies),
        *_of_fqe(policies),
        *_of_gammas(gammas, settings.gamma),
    ]
    quality: dict[str, dict[str, Measured]] = {}
    budget: dict[str, BudgetCurve] = {}
    if len(candidates) < FEWEST:
        notes.append(f"{len(candidates)} policies: too few to judge a ranking of")
    elif any(found is None for found in returns):
        notes.append("returns are not known of every policy: no ranking is judged")
    else:
        known = [name for name in SIGNS if policies[name].notna().any()]
        quality = {name: _quality(policies, name, settings.seed) for name in known}
        episodes = [found for found in returns if found is not None]
        order = np.arange(len(policies))  # as they stand
        budget = {
            "uniform": budget_curve(episodes, NUM_PULLS, None, settings.seed),
            MAIN: budget_curve(episodes, NUM_PULLS, order, settings.seed),
        }
    return Selection(policies, quality, budget, tuple(notes), estimates)


def _quality(policies: pd.DataFrame, estimator: str, seed: int) -> dict[str, Measured]:
    scores = SIGNS[estimator] * policies[estimator].to_numpy()
    returns = policies["return_mean"].to_numpy()
    found = {"spearman": measured(spearman, scores, returns, seed)}
    for k in REGRETS:
        if k < len(policies):  # else the best is always among them
            found[f"regret@{k}"] = measured(partial(regret, k=k), scores, returns, seed)
    return found


def _of_evidence(evidence: Evidence) -> list[str]:
    count = len(evidence.dataset.episode_lengths)
    if evidence.is_held_out:
        return [f"judged by {count} held-out episodes of {evidence.dataset.id}"]
    return [
        f"judged by all {count} episodes of {evidence.dataset.id}, which the policies learnt from: "
        "dataset.holdout=0.2 when training keeps some of them apart"
    ]


def _of_first(policies: pd.DataFrame) -> list[str]:
    """Whether the first is told apart from those after it."""
    reaching = int((policies["fqe_high"][1:] >= policies["fqe"].iloc[0]).sum())
    if not reaching:
        return []
    return [
        f"{reaching} other policies' intervals reach the first's value, so their order may be "
        "chance; the one of the highest fqe_low is the safer choice"
    ]


def _of_fqe(policies: pd.DataFrame) -> list[str]:
    diverged = policies[policies["fqe"].isna()]
    if diverged.empty:
        return []
    named = ", ".join(diverged["run"][:3])
    more = f" and {len(diverged) - 3} more" if len(diverged) > 3 else ""
    return [f"fitted Q evaluation diverged for {named}{more}: ranked last"]


def _of_gammas(gammas: Sequence[float | None], gamma: float) -> list[str]:
    others = sorted({found for found in gammas if found is not None and found != gamma})
    if not others:
        return []
    named = ", ".join(f"{found:g}" for found in others)
    return [
        f"policies with gamma {named} were evaluated by that: their discounted returns are left "
        f"out, and their own critics' values are not of gamma {gamma:g}"
    ]
