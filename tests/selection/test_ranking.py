"""Rankings held against known returns, and what episodes in the environment buy."""

import numpy as np
import pandas as pd
import pytest

from bcq_exp.analysis.statistics import interval
from bcq_exp.selection.bandit import budget_curve
from bcq_exp.selection.ranking import measured, regret, spearman

RETURNS = np.array([10.0, 40.0, 20.0, 30.0])


@pytest.mark.parametrize("seed", range(5))
def test_spearman_is_pandas(seed):
    rng = np.random.default_rng(seed)
    scores, returns = rng.integers(6, size=12), rng.standard_normal(12)  # with ties
    table = pd.DataFrame({"a": pd.Series(scores).rank(), "b": pd.Series(returns).rank()})
    assert spearman(scores, returns) == pytest.approx(table.corr()["a"]["b"])


def test_of_equal_scores_there_is_no_correlation():
    assert np.isnan(spearman(np.ones(4), RETURNS))


def test_regret_is_a_share_of_the_range():
    scores = np.array([0.9, 0.1, 0.8, 0.7])
    assert regret(scores, RETURNS, 1) == pytest.approx(1.0)
    assert regret(scores, RETURNS, 2) == pytest.approx(20 / 30)
    assert regret(scores, RETURNS, 3) == pytest.approx(10 / 30)
    assert regret(scores, RETURNS, 5) == 0.0
    assert np.isnan(regret(scores, np.ones(4), 1))


def test_of_equal_scores_any_may_be_the_higher():
    # all one score: the best of one drawn, and of two drawn, out of 10, 40, 20, 30
    assert regret(np.ones(4), RETURNS, 1) == pytest.approx((40 - 25) / 30)
    assert regret(np.ones(4), RETURNS, 2) == pytest.approx((40 - (3 * 40 + 2 * 30 + 20) / 6) / 30)
    scores = np.array([2.0, 1.0, 1.0, 0.0])  # 10 for sure, then 40 or 20
    assert regret(scores, RETURNS, 2) == pytest.approx((40 - 30) / 30)
    assert regret(scores[::-1], RETURNS[::-1], 2) == pytest.approx((40 - 30) / 30)
    # 30 for sure, then 10 or 40: the sure one is the best of the two in half of the ways
    assert regret(scores, np.array([30.0, 10.0, 40.0, 20.0]), 2) == pytest.approx((40 - 35) / 30)


def test_an_interval_holds_its_value_and_narrows_with_more_policies():
    rng = np.random.default_rng(0)
    widths = []
    for count in (10, 200):
        returns = rng.standard_normal(count)
        found = measured(spearman, returns + rng.standard_normal(count), returns, (-1, 1))
        assert found.low < found.value < found.high
        widths.append(found.high - found.low)
    assert widths[1] < widths[0] / 3


def test_an_interval_of_a_mean_is_students():
    scores = np.random.default_rng(0).standard_normal(8)
    found = measured(lambda scores, _: scores.mean(), scores, scores, (-np.inf, np.inf))
    expected = interval(scores.mean(), scores.std(ddof=1) / np.sqrt(8), 7)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=0.1)


def test_policies_without_a_score_or_a_return_are_left_out_and_two_are_too_few():
    scores = np.array([np.nan, 3.0, 1.0, 2.0, 9.0])
    found = measured(spearman, scores, np.array([*RETURNS, np.nan]), (-1, 1))
    assert (found.value, found.num_policies) == (1.0, 3)
    assert np.isnan(measured(spearman, scores[:3], RETURNS[:3], (-1, 1)).value)


def episodes(seed=0, spread=5.0):
    rng = np.random.default_rng(seed)
    return np.linspace(-1000, -100, 10)[:, None] + spread * rng.standard_normal((10, 20))


def test_without_noise_every_policy_tried_once_gives_the_best():
    returns = episodes(spread=0.0)
    curve = budget_curve(returns, 30)
    assert list(curve.episodes) == list(range(1, 31))
    assert curve.returns[0] == pytest.approx(returns.mean(), abs=30)  # any policy
    assert (np.diff(curve.returns[:10]) > 0).all()
    np.testing.assert_allclose(curve.returns[9:], -100)
    np.testing.assert_allclose([curve.low[9:], curve.high[9:]], -100)


def test_a_ranking_chooses_before_the_first_episode_and_a_right_one_is_never_worse():
    returns = episodes()
    right = np.argsort(-returns.mean(1))
    curve = budget_curve(returns, 20, right)
    assert list(curve.episodes) == list(range(21))
    np.testing.assert_allclose(curve.returns[:5], returns.mean(1).max())
    uniform = budget_curve(returns, 20)
    assert (curve.returns[1:] >= uniform.returns - 1e-9).all()
    wrong = budget_curve(returns, 20, right[::-1])
    assert wrong.returns[1] == pytest.approx(returns.mean(1).min())
    assert wrong.returns[20] == pytest.approx(returns.mean(1).max(), abs=5)


def test_only_policies_that_were_tried_are_chosen():
    returns = np.array([[-5.0, -5.0], [-9.0, -9.0], [-7.0, -7.0]])  # none is above 0
    curve = budget_curve(returns, 1, np.array([1, 2, 0]))
    assert list(curve.returns) == [-9.0, -9.0]


def test_equal_policies_are_chosen_by_lot_and_of_any_number_of_episodes():
    returns = [np.array([1.0, 0.0, 0.0, 0.0, 0.0]), *(np.zeros(n) for n in range(1, 10))]
    first = budget_curve(returns, 10).returns[-1]
    last = budget_curve(returns[::-1], 10).returns[-1]
    assert first == pytest.approx(last, abs=0.02)
    assert 0.03 < first < 0.09  # tried once, it succeeds in a fifth of the trials: else any


def test_a_policy_whose_first_episodes_were_poor_is_tried_again():
    returns = [np.array([97.0, 100.0]), np.array([98.0]), np.array([0.0])]
    curve = budget_curve(returns, 200)
    # chosen by its mean alone the best would stay out in the half of the trials that begin with 97
    assert curve.returns[-1] > 98.4
    for unit in (1e-3, 1e3):  # the bonus is of a scale of 0 to 100, whatever returns are counted in
        scaled = budget_curve([unit * own for own in returns], 200)
        np.testing.assert_allclose(scaled.returns, unit * curve.returns)
