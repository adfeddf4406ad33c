"""Importance sampling and doubly robust estimates, where the truth is known by other means."""

import numpy as np
import pytest
from scipy import stats

from bcq_exp.analysis.statistics import QUANTILE
from bcq_exp.selection import importance
from bcq_exp.selection.importance import (
    Episodes,
    Ratios,
    doubly_robust,
    effective_sample_size,
    effective_sizes,
    padded,
    per_decision_importance,
    trajectory_importance,
)
from tests.selection.tabular import Tabular, model, weighted

GAMMA = 0.9


@pytest.fixture(scope="module")
def problem():
    return Tabular()


def drawn(problem, count, seed=0):
    return problem.episodes(problem.behaviour, count, np.random.default_rng(seed))


def others_model(problem, recorded, seed=1):
    """A wrong model: random Q, and the V that the target policy has by it."""
    q = np.random.default_rng(seed).normal(2, 3, (problem.horizon, *problem.rew.shape))
    v = np.vstack([(problem.target * q).sum(-1), np.zeros(len(problem.rew))])
    return model(recorded, q, v)


def right_model(problem, recorded):
    return model(recorded, *problem.values(problem.target, GAMMA))


def cut_episodes(seed=0, count=7, longest=5):
    """Of different lengths, some cut and some not, with a model of no meaning."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(1, longest + 1, count)
    num = rows.sum()
    is_cut = rng.random(count) < 0.5
    episodes = Episodes.of(rng.normal(size=num), rng.normal(size=num), rows, is_cut)
    q, v = (padded(rng.normal(size=num), rows, width) for width in (0, rows.max() + 1))
    v[np.arange(count), rows] = np.where(is_cut, rng.normal(size=count), 0)
    return episodes, q, v


@pytest.mark.parametrize("seed", range(3))
def test_every_estimate_is_that_of_loops(seed):
    episodes, q, v = cut_episodes(seed)
    count, num_steps = episodes.rew.shape
    w = [[1.0] for _ in range(count)]  # w[i][t + 1] after step t
    for i in range(count):
        for t in range(num_steps):
            w[i].append(w[i][-1] * np.exp(episodes.log_ratios[i, t]))
    returns = [
        sum(GAMMA**t * episodes.rew[i, t] for t in range(episodes.lengths[i])) for i in range(count)
    ]
    final = [own[-1] for own in w]
    products = [a * b for a, b in zip(final, returns, strict=True)]
    expected = {"wis": sum(products) / sum(final), "pdwis": 0.0, "wdr": 0.0}
    least, uncut = np.inf, []  # the share of episodes that are not cut before each step
    for t in range(num_steps):
        cut = sum(episodes.lengths[i] == t and episodes.is_cut[i] for i in range(count))
        taken = sum(episodes.lengths[i] > t for i in range(count))
        uncut.append((uncut[-1] if uncut else 1.0) * taken / (taken + cut))
        known = [i for i in range(count) if t < episodes.lengths[i] or not episodes.is_cut[i]]
        if uncut[t] >= 0.1:
            u = {i: w[i][t + 1] / uncut[min(t, episodes.lengths[i] - 1)] for i in known}
            step = sum(u[i] * episodes.rew[i, t] for i in known)
            total = sum(u.values())
            expected["pdwis"] += GAMMA**t * step / total
            least = min(least, total**2 / sum(x**2 for x in u.values()))
    for t in range(num_steps + 1):
        before = sum(w[i][t] for i in range(count))
        after = sum(w[i][t + 1] for i in range(count)) if t < num_steps else None
        for i in range(count):
            expected["wdr"] += GAMMA**t * w[i][t] / before * v[i, t]
            if t < episodes.lengths[i]:
                error = episodes.rew[i, t] - q[i, t]
                expected["wdr"] += GAMMA**t * w[i][t + 1] / after * error
    found = {
        "wis": trajectory_importance(episodes, GAMMA),
        "pdwis": per_decision_importance(episodes, GAMMA),
        "wdr": doubly_robust(episodes, GAMMA, q, v),
    }
    assert {name: ratios.value for name, ratios in found.items()} == pytest.approx(expected)
    sizes = effective_sizes(episodes)
    assert sizes.of_episodes == pytest.approx(sum(final) ** 2 / sum(x**2 for x in final))
    assert sizes.least == pytest.approx(least)
    counts = np.random.default_rng(seed).multinomial(count, [1 / count] * count)
    chosen = np.repeat(np.arange(count), counts)
    again = Episodes(
        *(getattr(episodes, name)[chosen] for name in ("rew", "log_ratios", "lengths", "is_cut"))
    )
    vars(again)["_shares_uncut"] = episodes._shares_uncut  # which a draw does not change
    for name, estimator in {
        "wis": lambda: trajectory_importance(again, GAMMA),
        "pdwis": lambda: per_decision_importance(again, GAMMA),
        "wdr": lambda: doubly_robust(again, GAMMA, q[chosen], v[chosen]),
    }.items():
        assert found[name].drawn(counts[None].astype(float)) == pytest.approx([estimator().value])


def test_a_bandit_has_its_closed_form():
    """One step, two actions: sum_a pi(a) r(a), whoever records it; the size is E / (1 + chi^2)."""
    rng, count = np.random.default_rng(0), 200_000
    pi, b, r = np.array([0.9, 0.1]), np.array([0.4, 0.6]), np.array([1.0, -2.0])
    act = (rng.random(count) > b[0]).astype(int)
    episodes = Episodes.of(r[act], np.log(pi / b)[act], np.ones(count, int), np.zeros(count, bool))
    for estimator in (trajectory_importance, per_decision_importance):
        assert estimator(episodes, GAMMA).value == pytest.approx(pi @ r, abs=0.02)
    size = count / (pi**2 / b).sum()
    assert effective_sizes(episodes) == pytest.approx((size, size), rel=0.02)


def test_errors_shrink_with_more_episodes(problem):
    """Every weighted estimate is consistent, doubly robust ones with any model."""
    truth = problem.value(problem.target, GAMMA)
    errors = []
    for count in (400, 40_000):
        off = []
        for seed in range(4):
            recorded = drawn(problem, count, seed)
            episodes = weighted(recorded, problem.target, problem.behaviour)
            off.append(
                [
                    trajectory_importance(episodes, GAMMA).value - truth,
                    per_decision_importance(episodes, GAMMA).value - truth,
                    doubly_robust(episodes, GAMMA, *others_model(problem, recorded)).value - truth,
                    doubly_robust(episodes, GAMMA, *right_model(problem, recorded)).value - truth,
                ]
            )
        errors.append(np.sqrt(np.square(off).mean(0)))
    assert (errors[1] < 0.1).all() and (errors[1] < errors[0] / 3).all()  # a tenth is expected


def test_a_wrong_behaviour_is_made_up_for_by_the_right_model(problem):
    truth, uniform = problem.value(problem.target, GAMMA), np.full_like(problem.behaviour, 1 / 3)
    recorded = drawn(problem, 40_000)
    episodes = weighted(recorded, problem.target, uniform)
    off = per_decision_importance(episodes, GAMMA).value - truth
    right = doubly_robust(episodes, GAMMA, *right_model(problem, recorded)).value - truth
    assert abs(right) < 0.03 < 0.1 < abs(off)


def test_the_behaviours_own_value_is_the_mean_return(problem):
    recorded = drawn(problem, 300)
    episodes = weighted(recorded, problem.behaviour, problem.behaviour)
    mean = (recorded.rew @ GAMMA ** np.arange(problem.horizon)).mean()
    assert trajectory_importance(episodes, GAMMA).value == pytest.approx(mean)
    assert per_decision_importance(episodes, GAMMA).value == pytest.approx(mean)
    assert effective_sizes(episodes) == pytest.approx((300, 300))


def test_a_cut_episode_counts_as_long_as_it_is_known():
    """Two episodes of reward 1 for three steps; the second is cut after one."""
    rew, zeros = np.array([1.0, 1, 1, 1]), np.zeros(4)
    rows, is_cut = np.array([3, 1]), np.array([False, True])
    episodes = Episodes.of(rew, zeros, rows, is_cut)
    assert per_decision_importance(episodes, 1.0).value == pytest.approx(3)
    assert trajectory_importance(episodes, 1.0).value == pytest.approx(2)
    v = np.array([[3.0, 2, 1, 0], [3, 2, 0, 0]])  # of what follows the cut, the model's 2
    q = np.array([[3.0, 2, 1], [3, 0, 0]])
    assert doubly_robust(episodes, 1.0, q, v).value == pytest.approx(3)


def test_steps_that_only_terminated_episodes_reach_are_left_out():
    """Rows of a time limit of 3: a cut episode's last has no next observation."""
    rows, is_cut = np.array([2] * 20 + [3, 1]), np.array([True] * 20 + [False] * 2)
    rew = np.ones(rows.sum())
    rew[-2] = -5.0  # the third reward, of the episode that ended there
    episodes = Episodes.of(rew, np.zeros(len(rew)), rows, is_cut)
    assert per_decision_importance(episodes, 1.0).value == pytest.approx(1 + 21 / 22)
    assert effective_sizes(episodes).least == pytest.approx(22)


def test_episodes_cut_at_any_time_bias_nothing():
    """Those that go on stand for those that were cut, too; ends count as often as they happen."""
    problem = Tabular(horizon=8, ends=0.25)
    truth = problem.value(problem.target, GAMMA)
    recorded = drawn(problem, 60_000)
    whole = weighted(recorded, problem.target, problem.behaviour)
    at = np.random.default_rng(1).integers(1, 12, len(whole.lengths))
    is_cut = at < whole.lengths
    lengths = np.minimum(at, whole.lengths)
    seen = np.arange(whole.rew.shape[1]) < lengths[:, None]
    rew, log_ratios = np.where(seen, whole.rew, 0), np.where(seen, whole.log_ratios, 0)
    episodes = Episodes(rew, log_ratios, lengths, is_cut)
    assert per_decision_importance(episodes, GAMMA).value == pytest.approx(truth, abs=0.03)


def test_long_products_of_weights_neither_overflow_nor_vanish():
    rng = np.random.default_rng(0)
    count, num_steps = 20, 4000
    ratios = rng.normal(1.0, 0.01, (count, num_steps))  # products of e^4000
    episodes = Episodes(
        np.ones((count, num_steps)), ratios, np.full(count, num_steps), np.zeros(count, bool)
    )
    assert trajectory_importance(episodes, 0.99).value == pytest.approx(100, rel=1e-6)
    assert per_decision_importance(episodes, 0.99).value == pytest.approx(100, rel=1e-6)
    low, high = per_decision_importance(episodes, 0.99).interval(10)[1:]
    assert low == pytest.approx(100) == high
    assert 1 <= effective_sizes(episodes).of_episodes <= count


def test_without_any_weight_there_is_no_estimate():
    never = np.full((3, 2), -np.inf)
    episodes = Episodes(np.ones((3, 2)), never, np.full(3, 2), np.zeros(3, bool))
    assert np.isnan(trajectory_importance(episodes, GAMMA).value)
    assert np.isnan(per_decision_importance(episodes, GAMMA).value)
    assert effective_sizes(episodes) == (0, 0)
    assert np.isnan(trajectory_importance(episodes, GAMMA).interval(0)).all()


def test_the_effective_size_is_between_1_and_the_count_of_positive_weights():
    assert effective_sample_size(np.log([2.0, 2, 2])) == pytest.approx(3)
    assert effective_sample_size(np.array([0.0, -np.inf, -np.inf])) == pytest.approx(1)
    assert effective_sample_size(np.array([900.0, 0.0])) == pytest.approx(1)


def test_an_interval_is_students_with_the_effective_sample_as_its_size():
    """Of equal weights an estimate is a mean; 4 effective episodes leave 3 degrees of freedom."""
    scores = np.random.default_rng(0).normal(10, 2, size=(30, 1))
    value, low, high = Ratios(scores, np.ones((30, 1)), np.ones(1)).interval(4.0)
    error = scores.std() / np.sqrt(30) * np.sqrt(4 / 3)
    reach = stats.t.ppf((1 + QUANTILE) / 2, 3) * error
    assert value == pytest.approx(scores.mean())
    assert (low, high) == pytest.approx((value - reach, value + reach), abs=0.08 * reach)


def test_a_step_that_no_drawn_episode_reaches_keeps_its_value():
    numerators, denominators = np.array([[1.0, 6.0], [3.0, 0.0]]), np.array([[1.0, 2], [1, 0]])
    ratios = Ratios(numerators, denominators, np.array([1.0, 0.5]))
    assert ratios.value == pytest.approx(2 + 0.5 * 3)
    drawn = ratios.drawn(np.array([[0.0, 2], [2, 0]]))
    assert drawn == pytest.approx([3 + 0.5 * 3, 1 + 0.5 * 3])


def test_intervals_cover_the_truth(problem, monkeypatch):
    """In simulation: 95% intervals of 30 episodes, an effective sample of about 11."""
    monkeypatch.setattr(importance, "NUM_DRAWS", 200)
    truth, hits, sizes, num_trials = problem.value(problem.target, GAMMA), [], [], 200
    rng = np.random.default_rng(0)
    for trial in range(num_trials):
        recorded = problem.episodes(problem.behaviour, 30, rng)
        episodes = weighted(recorded, problem.target, problem.behaviour)
        size = effective_sizes(episodes).of_episodes
        ends = [
            ratios.interval(size, seed=trial)[1:]
            for ratios in (
                trajectory_importance(episodes, GAMMA),
                per_decision_importance(episodes, GAMMA),
                doubly_robust(episodes, GAMMA, *others_model(problem, recorded)),
                doubly_robust(episodes, GAMMA, *right_model(problem, recorded)),
            )
        ]
        hits.append([low <= truth <= high for low, high in ends])
        sizes.append(size)
    coverage = np.mean(hits, 0)
    assert 8 < np.mean(sizes) < 14
    assert ((coverage >= 0.93) & (coverage <= 1.0)).all(), coverage
