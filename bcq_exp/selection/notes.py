"""Notes on the interpretation of a selection's numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from bcq_exp.config.fqe_settings import FQESettings
from bcq_exp.formatting import counted, listed
from bcq_exp.selection.candidates import Candidate, Evidence
from bcq_exp.selection.off_policy import FEWEST_EFFECTIVE, OffPolicy
from bcq_exp.selection.propensities import Calibration
from bcq_exp.selection.ranking import FEWEST

CONVERGED = 0.95  # share of convergence that critics should reach
CUT = 0.05  # discount at the cut of episodes above which a note is made
STRAYING = 0.5  # share of supported actions below which a note is made
UNCALIBRATED = 0.1  # expected calibration error above which a note is made
WORSE = 0.05  # nats by which a model fits actions better than the recorded probabilities
NO_WEIGHTS = (
    "importance sampling and doubly robust estimates are not available: policies of continuous "
    "actions have no probability of a recorded action"
)
FEW = 10  # policies; fewer may be ordered well by chance


def notes_of(
    policies: pd.DataFrame,
    ranked: Sequence[Candidate],
    evidence: Evidence,
    settings: FQESettings,
    others: OffPolicy,
) -> Iterator[str]:
    """Yield notes on policies, which are sorted as in a ``Selection``."""
    yield from _of_evidence(evidence)
    yield from of_settings(settings)
    yield from _of_range(evidence, settings)
    yield from _of_runs(ranked)
    yield from _of_first(policies)
    yield from _of_fqe(policies)
    yield from _of_values(policies, evidence, settings)
    yield from _of_support(policies)
    if others.calibration:
        yield from _of_weights(policies, evidence, settings)
        yield from _of_behaviour(others.calibration, others.recorded_log_loss)
    else:
        yield NO_WEIGHTS
    yield from _of_gammas([each.agent.gamma for each in ranked], settings.gamma)
    yield from _of_horizon(evidence, settings)
    yield from _of_known(sum(each.returns is not None for each in ranked), len(ranked))


def _of_evidence(evidence: Evidence) -> Iterator[str]:
    count = len(evidence.dataset.episode_lengths)
    if evidence.is_held_out:
        yield f"estimated from {counted(count, 'held-out episode')} of {evidence.dataset.id}"
    else:
        yield (
            f"estimated from all {count} episodes of {evidence.dataset.id}, on which the policies "
            "were trained; dataset.holdout=0.2 in training holds out some of them for selection"
        )


def of_settings(settings: FQESettings, key: str = "num_steps") -> Iterator[str]:
    """Note whether critics have converged; ``key`` has the number of steps."""
    if settings.share_reached < CONVERGED:
        steps = counted(settings.num_steps, "step")
        yield (
            f"{steps} with tau {settings.target_tau:g} take fitted Q evaluation "
            f"{settings.share_reached:.0%} of the way from 0 to the final values; raise {key}"
        )


def _of_range(evidence: Evidence, settings: FQESettings) -> Iterator[str]:
    """Note whether the given range of values is narrower than the recorded returns."""
    if settings.return_range is None:
        return
    low, high = settings.return_range
    returns = evidence.returns(settings.gamma, settings.horizon)
    beyond = int(((returns < low) | (returns > high)).sum())
    if beyond:
        yield (
            f"{beyond} of {counted(len(returns), 'recorded episode')} "
            f"{'has a discounted return' if beyond == 1 else 'have discounted returns'} outside "
            f"return_range, [{low:g}, {high:g}]; values are means, but check the range"
        )


def _of_runs(ranked: Sequence[Candidate]) -> Iterator[str]:
    """Note keys in which runs differ besides the swept ones."""
    steps = [each.step for each in ranked]
    if min(steps) < max(steps):
        yield f"the policies were trained for {min(steps)} to {max(steps)} steps"
    if unfinished := Counter(each.status for each in ranked if each.status != "completed"):
        named = ", ".join(f"{count} {status}" for status, count in sorted(unfinished.items()))
        yield f"runs that have not completed ({named}) enter with their newest checkpoint"
    episodes = [len(each.returns) for each in ranked if each.returns is not None]
    if episodes and min(episodes) < max(episodes):
        yield f"returns are means of {min(episodes)} to {max(episodes)} episodes"


def _of_horizon(evidence: Evidence, settings: FQESettings) -> Iterator[str]:
    """Note whether values and discounted returns have different horizons."""
    spec, gamma, horizon = evidence.dataset.env_spec, settings.gamma, settings.horizon
    limit = None if spec is None else spec.max_episode_steps
    if horizon is not None and (limit is None or horizon < limit):
        yield (
            f"values cover the first {counted(horizon, 'step')}, but evaluations' discounted "
            "returns whole episodes, so the latter are left out"
        )
    elif limit not in (None, horizon) and gamma**limit >= CUT:
        ends = "values do not" if horizon is None else f"values after {horizon} steps"
        remedy = f"; horizon={limit} makes values end there too" * (limit <= evidence.num_known)
        yield (
            f"episodes end after {limit} steps, where a reward still has weight {gamma**limit:.0%};"
            f" discounted returns end there and {ends}, so they differ{remedy}"
        )


def _of_known(num_known: int, num_policies: int) -> Iterator[str]:
    """Note how many policies have known returns, and the consequences."""
    if not num_known:
        yield "no returns are known, so the rankings cannot be checked"
        return
    if num_known < num_policies:
        yield (
            f"returns at the checkpoint's step are known for {num_known} of {num_policies} "
            "policies, by which rankings are checked"
        )
    if num_known < FEWEST:
        policies = counted(num_known, "policy", "policies")
        yield f"{policies} with known returns: too few to check a ranking"
    elif num_known < FEW:
        yield f"with only {num_known} policies, intervals are wide and a good ranking may be chance"


def _of_first(policies: pd.DataFrame) -> Iterator[str]:
    """Note whether the first policy is better than the others beyond chance."""
    reaching = int((policies["fqe_high"][1:] >= policies["fqe"].iloc[0]).sum())
    if reaching:
        others = counted(
            reaching, "interval of another policy includes", "intervals of other policies include"
        )
        yield f"{others} the value of the first policy, so the order may be chance"


def _of_fqe(policies: pd.DataFrame) -> Iterator[str]:
    diverged = policies[policies["fqe"].isna()]
    if len(diverged):
        yield f"fitted Q evaluation diverged for {listed([*diverged['run']], 3)}: ranked last"


def _of_values(policies: pd.DataFrame, evidence: Evidence, settings: FQESettings) -> Iterator[str]:
    """Note policies whose value exceeds every recorded return."""
    best = float(evidence.returns(settings.gamma, settings.horizon).max())
    count = int((policies["fqe"] > best).sum())
    # with negative returns, a cut episode has a larger return than one that continues
    if count and (best >= 0 or settings.horizon is not None):
        those = counted(count, "policy is", "policies are")
        yield (
            f"{those} valued above the best recorded episode's discounted return "
            f"({best:.1f}); critics may overestimate actions outside the data"
        )


def _of_support(policies: pd.DataFrame) -> Iterator[str]:
    count = int((policies["support"] < STRAYING).sum())
    if count:
        those = counted(count, "policy takes", "policies take")
        yield (
            f"{those} actions that the data do not support in more than {1 - STRAYING:.0%} of "
            "states: no estimate can be trusted there"
        )


def _of_weights(policies: pd.DataFrame, evidence: Evidence, settings: FQESettings) -> Iterator[str]:
    if settings.epsilon:
        yield (
            "importance sampling and doubly robust estimates are of the policies with "
            f"{settings.epsilon:.3g} of actions at random (epsilon)"
        )
    few = policies[policies["ess"] < FEWEST_EFFECTIVE]
    if len(few):
        worst = few.sort_values("ess").iloc[0]
        those = counted(len(few), "policy has", "policies have")
        yield (
            f"{those} an effective sample size below {FEWEST_EFFECTIVE} ({worst['ess']:.1f} of "
            f"{len(evidence.episode_rows)} episodes for {worst['run']}): no estimates by weights; "
            "a shorter horizon or a larger epsilon leaves more episodes"
        )
    cut = evidence.is_cut
    weight = settings.gamma ** float(np.mean(evidence.episode_rows[cut])) if cut.any() else 0.0
    if settings.horizon is None and weight >= CUT:
        yield (
            f"{cut.mean():.0%} of the episodes are cut where a reward still weighs {weight:.0%}: "
            "WIS counts nothing after a cut, PDWIS only the episodes that go on, fitted Q and "
            "doubly robust the critic's value"
        )


def _of_behaviour(found: Calibration, recorded_log_loss: float | None) -> Iterator[str]:
    """Note the quality of the probabilities in importance weights."""
    if recorded_log_loss is not None:
        yield "behaviour probabilities are those that the data state"
        if recorded_log_loss > found.log_loss + WORSE:
            yield (
                "the stated probabilities explain the actions worse (log loss "
                f"{recorded_log_loss:.2f}) than a fitted model ({found.log_loss:.2f}): "
                "check that column"
            )
    else:
        yield (
            f"behaviour probabilities are estimated; on {counted(found.num_episodes, 'episode')} "
            "that it was not fitted to, the most probable action was taken in "
            f"{found.accuracy:.0%} of steps, the expected calibration error is {found.error:.2f}"
        )
        if found.error > UNCALIBRATED:
            yield "the behaviour model is poorly calibrated: so are all weights"


def _of_gammas(gammas: Sequence[float | None], gamma: float) -> Iterator[str]:
    others = sorted({found for found in gammas if found is not None and found != gamma})
    if others:
        named = ", ".join(f"{found:g}" for found in others)
        left_out = "" if gamma == 1 else "their discounted returns are left out, and "
        yield (
            f"policies with gamma {named}: {left_out}the values of their own critics are not "
            f"comparable with gamma {gamma:g}"
        )
