"""What section 6 of the paper claims, and what these runs say to it.

A claim is comparisons, each of pairs of runs on the same data by the same seed. A comparison is
decided by an exact sign-flip (permutation) test of the mean difference at 2.5% on either side.
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
from bcq_exp.paper.results import Results, shown

Verdict = Literal["held", "not held", "not decided"]
Measure = Literal["score", "early_score", "closeness", "overestimation"]

BEHAVIOUR = "behaviour"  # the recorded episodes, in place of an algorithm
AGENT = "behaviour agent"  # who collected them, evaluated without its noise
TRUTH = "its true return"  # which is over- or underestimated
# columns that all runs on the same data share
OF_DATA = {BEHAVIOUR: "behaviour_score", AGENT: "agent_score"}
ERROR = 0.025  # on either side
PAIRS_TO_DECIDE = math.ceil(-math.log2(ERROR))  # 2 ** -N is the least p of N
MATCHES = 5.0  # points of normalized score within which two count as equal
UNCORRELATED = ("final_buffer", "concurrent", "imitation")  # section 3.1's
ALL = ("final_buffer", "concurrent", "imitation", "imperfect")


@dataclass(frozen=True)
class Comparison:
    """``better`` lies above ``than`` by more than ``-margin``, in each of the settings by itself.

    Args:
        measure: a column of :attr:`~bcq_exp.paper.results.Results.runs`.
    """

    better: str
    than: str
    settings: tuple[str, ...] = ALL
    margin: float = 0.0
    measure: Measure = "score"


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper, or of ours where it says so."""

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
        difference: of the mean, with the bootstrap interval over seeds, in the measure's unit; how
            much better.
        num_planned: pairs there would be if all runs had completed.
        p: that ``better`` does not lie above, by the sign-flip test; ``p_opposite``: that it does.
    """

    comparison: Comparison
    setting: str
    verdict: Verdict
    num_pairs: int
    num_planned: int
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
        of_values = self.comparison.measure in ("closeness", "overestimation")
        unit = " (log10 of the error)" if of_values else ""
        return (
            f"{head} {self.difference.value:+.1f}{interval}{unit}, {self.num_pairs}{of} pairs, "
            f"p {_shown_p(min(self.p, self.p_opposite))}{within}: {self.verdict}"
        )


class Decided(NamedTuple):
    """A claim with what decides it."""

    claim: Claim
    verdict: Verdict
    decisions: tuple[Decision, ...]


def decide(results: Results, claims: Sequence[Claim] = CLAIMS) -> list[Decided]:
    """Every claim about algorithms and settings that were asked for.

    It held where each of its comparisons did, in each setting; it did not where one did not.
    """
    known = {*results.algorithms, *OF_DATA, TRUTH}
    found = []
    for claim in claims:
        if not all({c.better, c.than} <= known for c in claim.comparisons):
            continue
        decisions = tuple(
            _decision(results, comparison, setting)
            for comparison in claim.comparisons
            for setting in comparison.settings
            if setting in results.settings
        )
        if decisions:
            found.append(Decided(claim, _together([d.verdict for d in decisions]), decisions))
    return found


def _together(verdicts: Sequence[Verdict]) -> Verdict:
    if "not held" in verdicts:
        return "not held"
    return "held" if set(verdicts) == {"held"} else "not decided"


def _decision(results: Results, comparison: Comparison, setting: str) -> Decision:
    better, than = (
        _measured(results, name, comparison, setting)
        for name in (comparison.better, comparison.than)
    )
    pairs = (better - than).dropna()
    if pairs.empty:
        return Decision(comparison, setting, "not decided", 0, results.num_pairs)
    by_env = {str(env): part.to_numpy() for env, part in pairs.groupby(level="env")}
    p, p_opposite = sign_flip(pairs.to_numpy() + comparison.margin)
    verdict: Verdict = (
        "held" if p <= ERROR else "not held" if p_opposite <= ERROR else "not decided"
    )
    difference = statistics.estimate(by_env, statistics.mean)
    return Decision(
        comparison, setting, verdict, len(pairs), results.num_pairs, difference, p, p_opposite
    )


def _measured(results: Results, name: str, comparison: Comparison, setting: str) -> pd.Series:
    """The measure of one side, by (env, seed); a behaviour is that of the other side's data."""
    algorithms = {comparison.better, comparison.than} - {*OF_DATA, TRUTH}
    runs = results.completed(name if name in algorithms else algorithms.pop(), setting)
    if name == TRUTH:
        return pd.Series(0.0, index=runs.index)
    return runs[OF_DATA.get(name, comparison.measure)]


def sign_flip(differences: np.ndarray) -> tuple[float, float]:
    """p of a mean that is not above 0, and of one that is not below, over all flips of signs (N,).

    Exact up to 16 pairs, where 2^N flips are enumerated.
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
