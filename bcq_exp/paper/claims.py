"""The claims of the paper's section 6, tested on these runs.

A claim is a list of comparisons, each of pairs of runs with the same data and seed. A comparison
is decided by an exact sign-flip (permutation) test of the mean difference at 2.5% on either side;
pairs that share a data set change their sign together. A claim holds if each of its comparisons
does, which needs no correction; it fails if one of them fails, by Holm's correction over all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import permutation_test

from bcq_exp.analysis import statistics
from bcq_exp.analysis.statistics import Estimate
from bcq_exp.formatting import counted
from bcq_exp.paper.run_tables import Results, shown

Verdict = Literal["held", "not held", "not decided"]
Measure = Literal["score", "early_score", "closeness", "overestimation"]

BEHAVIOUR = "behaviour"  # the recorded episodes, compared like an algorithm
AGENT = "behaviour agent"  # the agent that collected them, evaluated without noise
TRUTH = "its true return"  # which is over- or underestimated
# columns that all runs on the same data share
OF_DATA = {BEHAVIOUR: "behaviour_score", AGENT: "agent_score"}
ERROR = 0.025  # on either side
DATASETS_TO_DECIDE = math.ceil(-math.log2(ERROR))  # 2 ** -N is the least p of N
MATCHES = 5.0  # points of normalized score within which two results are equal
UNCORRELATED = ("final_buffer", "concurrent", "imitation")  # section 3.1's
ALL = ("final_buffer", "concurrent", "imitation", "imperfect")


@dataclass(frozen=True)
class Comparison:
    """``better`` lies above ``than`` by more than ``-margin``, tested in each setting.

    Args:
        measure: a column of :attr:`~bcq_exp.paper.run_tables.Results.runs`.
    """

    better: str
    than: str
    settings: tuple[str, ...] = ALL
    margin: float = 0.0
    measure: Measure = "score"


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper, or of bcq_exp if it says so."""

    sentence: str
    comparisons: tuple[Comparison, ...]


CLAIMS = (
    Claim(
        "BCQ matches or outperforms the behaviour policy in every setting.",
        (Comparison("bcq", BEHAVIOUR, margin=MATCHES),),
    ),
    Claim(
        "DDPG, trained off-policy, falls short of the agent that collected the data: from its "
        "final buffer, concurrently, and from an expert (section 3.1).",
        (Comparison(AGENT, "ddpg", UNCORRELATED),),
    ),
    Claim("BCQ outperforms DDPG in every setting.", (Comparison("bcq", "ddpg"),)),
    Claim("BCQ outperforms DQN in every setting.", (Comparison("bcq", "dqn"),)),
    Claim(
        "BCQ outperforms behavioural cloning, plain and by a VAE, in every setting but imitation.",
        tuple(
            Comparison("bcq", algo, ("final_buffer", "concurrent", "imperfect"))
            for algo in ("bc", "vae_bc")
        ),
    ),
    Claim(
        "Behavioural cloning performs best in imitation.",
        tuple(Comparison("bc", algo, ("imitation",)) for algo in ("bcq", "vae_bc", "ddpg")),
    ),
    Claim(
        "From imperfect demonstrations BCQ outperforms the noisy demonstrator.",
        (Comparison("bcq", BEHAVIOUR, ("imperfect",)),),
    ),
    Claim(
        "BCQ does so in few iterations: in the first quarter of training.",
        (Comparison("bcq", BEHAVIOUR, ("imperfect",), measure="early_score"),),
    ),
    Claim(
        "Off-policy DDPG overestimates the value of what it does (section 3.1).",
        (Comparison("ddpg", TRUTH, UNCORRELATED, measure="overestimation"),),
    ),
    Claim(
        "BCQ's value estimate stays nearer to the true discounted return than DDPG's.",
        (Comparison("bcq", "ddpg", measure="closeness"),),
    ),
    Claim(
        "Beside the paper: BCQ outperforms TD3+BC in every setting.",
        (Comparison("bcq", "td3_bc"),),
    ),
)


class Decision(NamedTuple):
    """A comparison in one setting.

    Args:
        num_pairs, num_planned: pairs so far, and pairs if all runs had ended.
        num_datasets: data sets of the pairs.
        num_failed: pairs with a failed run, which counts as the worst of its task.
        num_dead: pairs with a run that ended with a dead VAE.
        difference: the mean difference, with its interval over data sets, in the measure's unit.
        p: the p-value that ``better`` is not above, by the sign-flip test; ``p_opposite``: that it
            is, corrected for the claim's other comparisons.
    """

    comparison: Comparison
    setting: str
    verdict: Verdict
    num_pairs: int
    num_planned: int
    num_datasets: int = 0
    num_failed: int = 0
    num_dead: int = 0
    difference: Estimate | None = None
    p: float = float("nan")
    p_opposite: float = float("nan")

    def __str__(self) -> str:
        names = f"{shown(self.comparison.better)} – {shown(self.comparison.than)}"
        head = f"{shown(self.setting)}: {names}"
        if self.difference is None:
            return f"{head}: no pairs of runs"
        low, high = self.difference.low, self.difference.high
        interval = "" if np.isnan(low) else f" [{low:+.1f}, {high:+.1f}]"
        margin = self.comparison.margin
        within = f" (against {-margin:+.0f})" if margin else ""
        of = f" of {self.num_planned}" if self.num_pairs < self.num_planned else ""
        pairs = f"{self.num_pairs}{of} pairs" if of else counted(self.num_pairs, "pair")
        if self.num_datasets < self.num_pairs:
            pairs += f" on {counted(self.num_datasets, 'data set')}"
        if self.num_failed:
            pairs += f" ({self.num_failed} with a failed run)"
        if self.num_dead:
            pairs += f" ({self.num_dead} with a dead VAE)"
        of_values = self.comparison.measure in ("closeness", "overestimation")
        unit = " (log10 of the error)" if of_values else ""
        return (
            f"{head} {self.difference.value:+.1f}{interval}{unit}, {pairs}, "
            f"p {_shown_p(min(self.p, self.p_opposite))}{within}: {self.verdict}"
        )


class Decided(NamedTuple):
    """A claim with the comparisons that decide it."""

    claim: Claim
    verdict: Verdict
    decisions: tuple[Decision, ...]


def decide(results: Results, claims: Sequence[Claim] = CLAIMS) -> list[Decided]:
    """Decide every claim about the planned algorithms and settings.

    A claim holds if each of its comparisons does in each setting; it fails if one of them fails, by
    Holm's correction.
    """
    known = {*results.algorithms, *OF_DATA, TRUTH}
    found = []
    for claim in claims:
        if not all({c.better, c.than} <= known for c in claim.comparisons):
            continue
        decisions = _judged(
            [
                _tested(results, comparison, setting)
                for comparison in claim.comparisons
                for setting in comparison.settings
                if setting in results.settings
            ]
        )
        if decisions:
            found.append(Decided(claim, _together([d.verdict for d in decisions]), decisions))
    return found


def _together(verdicts: Sequence[Verdict]) -> Verdict:
    if "not held" in verdicts:
        return "not held"
    return "held" if set(verdicts) == {"held"} else "not decided"


def _judged(decisions: Sequence[Decision]) -> tuple[Decision, ...]:
    """Return the comparisons of a claim with their verdicts."""
    corrected = holm([each.p_opposite for each in decisions])
    return tuple(
        each._replace(
            p_opposite=p_opposite,
            verdict="held"
            if each.p <= ERROR
            else "not held"
            if p_opposite <= ERROR
            else "not decided",
        )
        for each, p_opposite in zip(decisions, corrected, strict=True)
    )


def _tested(results: Results, comparison: Comparison, setting: str) -> Decision:
    """Test a comparison, without a verdict."""
    pairs = _pairs(results, comparison, setting)
    found = Decision(comparison, setting, "not decided", len(pairs), results.num_pairs)
    if pairs.empty:
        return found
    of_data = pairs.groupby(["env", "dataset"])["difference"]
    means = of_data.mean()
    by_env = {str(env): part.to_numpy() for env, part in means.groupby(level="env")}
    p, p_opposite = sign_flip((of_data.sum() + comparison.margin * of_data.size()).to_numpy())
    return found._replace(
        num_datasets=len(means),
        num_failed=int(pairs["has_failed"].sum()),
        num_dead=int(pairs["has_dead_vae"].sum()),
        difference=statistics.estimate(by_env, statistics.mean),
        p=p,
        p_opposite=p_opposite,
    )


def _pairs(results: Results, comparison: Comparison, setting: str) -> pd.DataFrame:
    """Return the pairs so far: env, seed, dataset, difference of the measure, has_failed,
    has_dead_vae.

    A behaviour is paired with the runs on its data.
    """
    names = (comparison.better, comparison.than)
    learners = [name for name in names if name not in (*OF_DATA, TRUTH)]
    runs = {name: results.ended(name, setting) for name in learners}
    any_side = runs[learners[0]]

    def measured(name: str) -> pd.Series:
        if name == TRUTH:
            return pd.Series(0.0, index=any_side.index)
        return any_side[OF_DATA[name]] if name in OF_DATA else runs[name][comparison.measure]

    better, than = map(measured, names)
    pairs = pd.DataFrame({"difference": better - than}).dropna()
    for flag in ("has_failed", "has_dead_vae"):
        of_sides = [runs[name][flag].fillna(False).reindex(pairs.index) for name in learners]
        pairs[flag] = np.logical_or.reduce([side.astype(bool) for side in of_sides])
    return pairs.join(any_side["dataset"]).reset_index()


def holm(p: Sequence[float]) -> list[float]:
    """Holm's corrected p-values (1979); NaN, for untested comparisons, is ignored."""
    tested = sorted((value, i) for i, value in enumerate(p) if not math.isnan(value))
    found, least = list(p), 0.0
    for rank, (value, i) in enumerate(tested):
        least = max(least, min(1.0, (len(tested) - rank) * value))
        found[i] = least
    return found


def sign_flip(differences: np.ndarray) -> tuple[float, float]:
    """p-values of a mean not above 0, and of one not below, over all flips of signs (N,).

    Exact up to 16 differences, where 2^N flips are enumerated.
    """
    if len(differences) < 2:
        return 1.0, 1.0
    greater, less = (
        permutation_test(
            (differences,),
            np.mean,
            permutation_type="samples",
            alternative=alternative,
            n_resamples=2**16,
            rng=np.random.default_rng(0),
        ).pvalue
        for alternative in ("greater", "less")
    )
    return float(greater), float(less)


def _shown_p(p: float) -> str:
    return "below 0.001" if p < 0.001 else f"{p:.3f}"
