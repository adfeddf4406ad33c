"""Statistics against values worked out by hand and rliable's published definitions."""

import numpy as np
import pandas as pd
import pytest

from bcq_exp.analysis import statistics
from bcq_exp.analysis.statistics import (
    estimate,
    importance,
    iqm,
    mean,
    median,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
)

EIGHT = np.array([8.0, 1, 2, 100, 4, 5, 6, -50])


def test_the_interquartile_mean_is_the_mean_of_the_middle_half():
    assert iqm(EIGHT) == (2 + 4 + 5 + 6) / 4  # sorted: -50 1 | 2 4 5 6 | 8 100
    assert iqm(np.array([3.0])) == 3
    np.testing.assert_allclose(iqm(np.stack([EIGHT, EIGHT + 1])), [4.25, 5.25])


def test_the_optimality_gap_counts_nothing_above_its_mark():
    assert optimality_gap(np.array([50.0, 100, 300])) == pytest.approx(100 - 250 / 3)
    assert optimality_gap(np.array([0.2, 2.0]), gamma=1.0) == pytest.approx(0.4)


def test_the_probability_of_improvement_is_mann_whitneys_u():
    x, y = {"t": np.array([1.0, 2, 3])}, {"t": np.array([2.0, 0])}
    # 1>0; 2=2, 2>0; 3>2, 3>0: (1 + 1.5 + 2) / 6
    assert probability_of_improvement(x, y).value == pytest.approx(4.5 / 6)
    assert probability_of_improvement(y, x).value == pytest.approx(1.5 / 6)
    both = {"t": np.array([1.0, 2, 3]), "u": np.array([1.0])}
    other = {"t": np.array([2.0, 0]), "u": np.array([5.0])}
    assert probability_of_improvement(both, other).value == pytest.approx(4.5 / 12)
    with pytest.raises(ValueError, match="no task in common"):
        probability_of_improvement(x, {"v": np.array([1.0])})


def test_a_performance_profile_is_the_share_above_each_threshold():
    share, low, high = performance_profile(
        {"t": np.array([1.0, 2, 3, 4])}, np.array([0.0, 2.0, 4.0])
    )
    np.testing.assert_allclose(share, [1.0, 0.5, 0.0])
    assert ((low <= share) & (share <= high)).all()
    assert 0 <= low[1] < 0.5 < high[1] <= 1


def test_the_bootstrap_of_the_mean_has_its_known_width():
    scores = np.random.default_rng(0).normal(10, 2, size=400)
    value, low, high = estimate({"t": scores}, mean)
    error = scores.std(ddof=1) / np.sqrt(len(scores))
    assert value == scores.mean()
    assert low == pytest.approx(value - 1.96 * error, abs=0.3 * error)
    assert high == pytest.approx(value + 1.96 * error, abs=0.3 * error)


def test_the_bootstrap_agrees_with_scipys():
    from scipy.stats import bootstrap

    scores = np.random.default_rng(1).gamma(2, 3, size=20)
    theirs = bootstrap(
        (scores,), iqm, method="percentile", n_resamples=5000, rng=np.random.default_rng(2)
    ).confidence_interval
    value, low, high = estimate({"t": scores}, iqm)
    width = theirs.high - theirs.low
    assert low == pytest.approx(theirs.low, abs=0.06 * width)
    assert high == pytest.approx(theirs.high, abs=0.06 * width)
    assert low < value < high


def test_the_bootstrap_is_stratified():
    """Two tasks without spread of their own: resampling them apart leaves none."""
    apart = estimate({"a": np.zeros(5), "b": np.full(5, 100.0)}, mean)
    assert apart == (50.0, 50.0, 50.0)


def test_one_run_has_no_interval():
    value, low, high = estimate({"t": np.array([3.0])}, median)
    assert value == 3
    assert np.isnan(low)
    assert np.isnan(high)
    for one, other in ((1, 1), (1, 4), (4, 1)):
        x, y = {"t": np.arange(one)}, {"t": np.arange(other)}
        assert np.isnan(probability_of_improvement(x, y).low)


def test_importance_is_what_a_key_explains_beyond_chance():
    scores = pd.Series([1.0, 2, 11, 12])
    key = pd.Series(["a", "a", "b", "b"])
    # total 101, within 1, between 100; epsilon^2 = (100 - 1 * 1 / 2) / 101
    assert importance(key, scores) == pytest.approx(99.5 / 101)
    assert importance(pd.Series(["a", "b", "a", "b"]), scores) == 0  # less than chance explains
    assert importance(pd.Series(["a"] * 4), scores) == 0
    noise = np.random.default_rng(0)
    many, of_many = pd.Series(noise.random(400)), pd.Series(noise.normal(size=400))
    assert importance(many, of_many) < 0.05
    assert importance(many, 10 * many + 0.1 * of_many) > 0.8
    assert many.nunique() > statistics.LEVELS_AT_MOST
