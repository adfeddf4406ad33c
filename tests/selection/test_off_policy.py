"""Estimates of policies of discrete actions from recorded episodes, where values are known."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from bcq_exp.config.fqe_settings import FQESettings
from bcq_exp.data.transitions import Transitions
from bcq_exp.errors import UserError
from bcq_exp.selection import bandit, importance, notes, propensities, ranking
from bcq_exp.selection.candidates import Candidate, Evidence, policies_actions
from bcq_exp.selection.estimates import _check_range, _discounted, _quality, select
from bcq_exp.selection.fitted_q import FittedQ
from bcq_exp.selection.importance import Episodes, doubly_robust
from bcq_exp.selection.off_policy import _behaviour, _weighted, off_policy
from bcq_exp.selection.propensities import Calibration, calibration, fit_behaviour
from bcq_exp.selection.ranking import spearman
from bcq_exp.selection.support import NearestActions, discrete_support
from bcq_exp.training.evaluation import Agent
from tests.selection.tabular import Tabular, made_up

GAMMA, START = 0.9, 5
QUICK = {"gamma": GAMMA, "num_members": 2, "hidden_sizes": (32,), "batch_size": 64, "lr": 3e-3}


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(importance, "NUM_DRAWS", 200)


@dataclass
class TablePolicy:
    """The contract of a policy of discrete actions: probabilities (S, n) by a state's number."""

    table: np.ndarray
    observation_space = None

    def action_probabilities(self, obs):
        return torch.as_tensor(np.asarray(obs) @ self.table)


def candidate(table, name="one", returns=None):
    return Candidate(name, name, 10, "completed", Agent(TablePolicy(table)), returns, None)


def as_dataset(problem, recorded, **others):
    """One-hot states, indices of actions; the horizon truncates."""
    known = np.arange(problem.horizon) < recorded.lengths[:, None]
    states = np.eye(len(problem.rew), dtype=np.float32)
    is_last = np.arange(problem.horizon) == recorded.lengths[:, None] - 1
    transitions = Transitions(
        obs=states[recorded.states[:, :-1][known]],
        act=recorded.actions[known][:, None].astype(np.float32),
        rew=recorded.rew[known],
        terminated=(is_last & ~recorded.is_cut[:, None])[known],
        truncated=(is_last & recorded.is_cut[:, None])[known],
        obs_next=states[recorded.states[:, 1:][known]],
    )
    space = Discrete(problem.rew.shape[1], start=START)
    return made_up(transitions, space, recorded.lengths, recorded.rew.sum(1), **others)


@pytest.fixture(scope="module")
def problem():
    return Tabular(horizon=6, ends=0.2)


@pytest.fixture(scope="module")
def evidence(problem):
    rng = np.random.default_rng(0)
    training = as_dataset(problem, problem.episodes(problem.behaviour, 600, rng))
    judged = as_dataset(problem, problem.episodes(problem.behaviour, 400, rng))
    return Evidence(replace(training, held_out=judged))


def fit(evidence, tables, tmp_path, **settings):
    candidates = [candidate(table, f"p{k}") for k, table in enumerate(tables)]
    settings = FQESettings(**{**QUICK, "num_steps": 500, **settings})
    acts = policies_actions(candidates, evidence, 0)
    recorded = evidence.behaviours_actions
    both = [np.concatenate([own, known[None]]) for own, known in zip(acts, recorded, strict=True)]
    fitted = FittedQ(evidence, *both, settings)
    fitted.fit(tmp_path / "fqe.pt")
    return candidates, fitted, settings


def test_every_estimate_is_near_the_known_value(problem, evidence, tmp_path):
    """Of a stochastic policy, a greedy one, and the behaviour; the horizon is known."""
    greedy = np.eye(3)[problem.target.argmax(1)]
    policies = (problem.target, greedy)
    options = {"horizon": problem.horizon, "epsilon": 0.1}
    candidates, fitted, settings = fit(evidence, policies, tmp_path, **options)
    values = [each.of_all.mean() for each in fitted.estimates()]
    found = off_policy(candidates, evidence, fitted, settings)
    soft = [0.9 * table + 0.1 / 3 for table in policies]
    rows = (*found.policies, found.behaviour)
    for fqe, table, softened, row in zip(
        values, (*policies, problem.behaviour), (*soft, problem.behaviour), rows, strict=True
    ):
        assert fqe == pytest.approx(problem.value(table, GAMMA), abs=0.3)
        truth = problem.value(softened, GAMMA)
        for name in ("wis", "pdwis", "dr"):
            assert row[f"{name}_low"] < truth < row[f"{name}_high"]
            assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
        assert row["dr"] == pytest.approx(truth, abs=0.3)
    assert found.behaviour["ess"] == pytest.approx(400)
    assert 5 < found.policies[1]["ess"] < found.policies[0]["ess"] < 400
    mean = evidence.returns(GAMMA, problem.horizon).mean()
    assert found.behaviour["wis"] == pytest.approx(mean, rel=1e-5)
    assert found.behaviour["pdwis"] == pytest.approx(mean, rel=1e-5)
    assert found.calibration.num_episodes == 400 and found.recorded_log_loss is None


def test_estimates_need_effective_episodes_not_as_many_at_every_step():
    """Six of seven equal episodes are cut after one step: one is left at the second."""
    lengths, none = np.array([2, *[1] * 6]), np.zeros(8)
    ends = np.zeros(8, dtype=bool)
    fitted = SimpleNamespace(
        recorded=SimpleNamespace(rew=np.ones(8), terminated=ends),
        episode_rows=lengths,
        recorded_values=lambda k, policy: (np.zeros((7, 2)), np.zeros((7, 3))),
    )
    found = _weighted(fitted, 0, none, none, FQESettings(gamma=GAMMA))
    assert (found["ess"], found["ess_least"]) == pytest.approx((7, 1))
    assert found["pdwis"] == pytest.approx(1 + GAMMA)
    few = np.log([1.0, 1, 1, 1, 1, 1e-9, 1e-9, 1e-9])
    found = _weighted(fitted, 0, none, few, FQESettings(gamma=GAMMA))
    assert found["ess"] == pytest.approx(4) and np.isnan(found["pdwis"])


def test_the_models_values_are_of_members_that_did_not_see_the_episode(evidence, tmp_path):
    table = np.full((4, 3), 1 / 3)
    _, fitted, _ = fit(evidence, [table], tmp_path, num_steps=30)
    t, rows = fitted.recorded, fitted.episode_rows
    q, v = fitted.recorded_values(0, np.full((len(t), 3), 1 / 3, dtype=np.float32))
    drawn = [set(sample.tolist()) for sample in fitted._drawn]
    seen = {e: [m for m in range(2) if e not in drawn[m]] for e in range(len(rows))}
    assert {len(members) for members in seen.values()} == {0, 1, 2}
    starts = np.cumsum(rows) - rows
    for e in range(40):
        members = seen[e] or [0, 1]
        first, last = starts[e], starts[e] + rows[e] - 1
        obs = fitted._units.obs(np.stack([t.obs[first], t.obs_next[last]]))
        with torch.no_grad():
            heads = [
                fitted._engine.algorithm(m).critic.net(torch.tensor(obs)).numpy() for m in members
            ]
        mean = fitted._units.value(np.mean(heads, 0))
        assert q[e, 0] == pytest.approx(mean[0] @ t.act[first], rel=1e-4)
        assert v[e, 0] == pytest.approx(mean[0].mean(), rel=1e-4)
        after = 0 if t.terminated[last] else mean[1].mean()
        assert v[e, rows[e]] == pytest.approx(after, rel=1e-4)
        assert not q[e, rows[e] :].any() and not v[e, rows[e] + 1 :].any()


def test_the_behaviour_policy_is_found_and_calibrated(problem, evidence):
    training = evidence.training
    index = training.transitions.act[:, 0].astype(int)
    model = fit_behaviour(training.transitions.obs, index, training.episode_rows, 3, (32,))
    np.testing.assert_allclose(model.probabilities(np.eye(4)), problem.behaviour, atol=0.06)
    judged = evidence.dataset.transitions
    found = calibration(model.probabilities(judged.obs), judged.act[:, 0].astype(int), 400)
    best = problem.behaviour.max(1)[judged.obs.argmax(1)].mean()
    assert found.accuracy == pytest.approx(best, abs=0.03) and found.error < 0.05
    assert found.log_loss < found.marginal_log_loss
    assert sum(count for *_, count in found.reliability) == len(judged)
    again = fit_behaviour(training.transitions.obs, index, training.episode_rows, 3, (32,))
    assert (again.probabilities(np.eye(4)) == model.probabilities(np.eye(4))).all()


def test_a_model_that_is_too_sure_is_not_calibrated():
    rng = np.random.default_rng(0)
    act = (rng.random(4000) < 0.3).astype(int)  # 0 in 70% of steps
    found = calibration(np.tile([0.95, 0.05], (4000, 1)), act, 10)
    assert found.error == pytest.approx(0.25, abs=0.02) and found.accuracy == pytest.approx(
        0.7, abs=0.02
    )
    assert found.reliability == ((pytest.approx(0.95), found.accuracy, 4000),)


def test_stated_probabilities_are_used_and_held_against_the_model(problem, evidence, tmp_path):
    judged = evidence.dataset
    index = judged.transitions.act[:, 0].astype(int)
    prob = problem.behaviour[judged.transitions.obs.argmax(1), index]
    stated = Evidence(replace(evidence.training, held_out=replace(judged, behaviour_prob=prob)))
    args = fit(stated, [problem.behaviour], tmp_path, num_steps=30, epsilon=0.0)
    candidates, fitted, settings = args
    found = off_policy(candidates, stated, fitted, settings)
    assert found.policies[0]["ess"] == pytest.approx(400), "it is the behaviour policy"
    assert found.recorded_log_loss == pytest.approx(-np.log(prob).mean())
    t, rows = fitted.recorded, fitted.episode_rows
    is_cut = ~t.terminated[np.cumsum(rows) - 1]
    assert is_cut.any()  # what follows the cut is valued by the behaviour's own critics
    unweighted = Episodes.of(t.rew, np.zeros(len(t)), rows, is_cut)
    dr = doubly_robust(unweighted, GAMMA, *fitted.recorded_values(1, stated.act))
    assert found.behaviour["dr"] == pytest.approx(dr.value, rel=1e-9)


def test_a_selection_has_notes_of_its_limits(problem, evidence, tmp_path, monkeypatch):
    monkeypatch.setattr(bandit, "TRIALS", 100)
    monkeypatch.setattr(ranking, "RESAMPLES", 100)
    never = np.eye(3)[problem.behaviour.argmin(1)]
    candidates = [
        candidate(table, name, np.array([value, value + 1.0]))
        for name, table, value in (
            ("near", problem.target, 20), ("far", never, 30), ("same", problem.behaviour, 10),
        )
    ]  # fmt: skip
    settings = FQESettings(**QUICK, num_steps=30, epsilon=0.001)
    found = select(candidates, evidence, settings, tmp_path / "fqe.pt")
    known = found.policies["return_mean"].to_numpy()
    assert found.policies["run"][0] != "near" and sorted(known) == [10.5, 20.5, 30.5]
    assert found.budget["fqe"].returns[0] == known[0], "it begins with the ranking"
    assert found.quality["fqe"]["spearman"].value == spearman(found.policies["fqe"], known)
    rows = found.policies.set_index("run")
    assert np.isfinite(
        rows.loc["near", ["wis", "pdwis", "dr", "wis_low", "dr_high"]].astype(float)
    ).all()
    assert rows.loc["far", ["wis", "pdwis", "dr", "wis_low"]].isna().all()
    assert rows.loc["far", "ess"] < 5 < rows.loc["near", "ess"]
    notes = "\n".join(found.notes)
    for note in (
        "1 policy has an effective sample size below 5",
        "are of the policies with 0.001 of actions at random (epsilon)",
        "behaviour probabilities are estimated; on 400 episodes that it was not fitted to",
        "of the episodes are cut where a reward still weighs",
    ):
        assert note in notes
    assert found.behaviour["ess"] == pytest.approx(400)
    assert found.estimates["near"]["support"] == pytest.approx(1)
    softer = select(candidates, evidence, replace(settings, epsilon=0.5), tmp_path / "softer.pt")
    for name, row in found.estimates.items():  # of the policy as it is
        assert softer.estimates[name]["support"] == row["support"]


def test_of_an_estimator_where_less_is_better_the_least_is_first():
    errors = pd.DataFrame(
        {"td_error": [1.0, 2, 3, 4, 5, np.nan], "return_mean": np.arange(6.0, 0, -1)}
    )
    found = _quality(errors, "td_error", 0)
    assert (found["spearman"].value, found["regret@1"].value) == (pytest.approx(1), 0)
    assert np.isnan(found["regret@5"].value), "5 of 6 have an estimate, the best may not"
    assert "regret@5" not in _quality(errors[:5], "td_error", 0)


@pytest.mark.parametrize(
    ("gamma", "horizon", "limit", "expected"),
    [
        (0.9, None, 200, 7.0),
        (0.8, None, 200, None),  # its evaluation is discounted by 0.9
        (1.0, None, 200, 12.0),  # that of any policy is not discounted
        (0.9, 300, 200, 7.0),
        (0.9, 200, 200, 7.0),
        (0.9, 100, 200, None),  # episodes are longer
        (0.9, 100, None, None),
    ],
)
def test_a_discounted_return_has_the_discount_and_the_horizon_of_the_estimates(
    gamma, horizon, limit, expected
):
    spec = None if limit is None else SimpleNamespace(max_episode_steps=limit)
    evidence = SimpleNamespace(dataset=SimpleNamespace(env_spec=spec))
    agent = SimpleNamespace(gamma=0.9)
    policy = Candidate("a", "a", 10, "completed", agent, np.array([11.0, 13.0]), 7.0)
    assert _discounted(policy, evidence, FQESettings(gamma=gamma, horizon=horizon)) == expected


def test_a_range_of_returns_contains_the_recorded_mean(evidence):
    mean = evidence.returns(GAMMA, None).mean()
    for low, high, is_fine in ((-1, 1, True), (1, 2, False), (-2, -1, False)):
        settings = FQESettings(gamma=GAMMA, return_range=(mean + low, mean + high))
        if is_fine:
            _check_range(evidence, settings)
        else:
            with pytest.raises(UserError, match="must contain the mean discounted return"):
                _check_range(evidence, settings)


def test_a_single_episode_is_refused_where_actions_are_compared_with_those_of_others(
    problem, tmp_path
):
    one = as_dataset(problem, problem.episodes(problem.behaviour, 1, np.random.default_rng(0)))
    for alone in (Evidence(one), Evidence(replace(one, held_out=one))):
        with pytest.raises(UserError, match=r"^made/up-v0: has a single episode to learn from"):
            select([candidate(problem.behaviour)], alone, FQESettings(**QUICK), tmp_path / "fqe.pt")


def test_without_held_out_episodes_a_behaviour_model_is_measured_on_those_it_did_not_see(
    evidence, monkeypatch
):
    monkeypatch.setattr(propensities, "MOST_STEPS", 50)
    half = Evidence(evidence.dataset)
    probabilities, found = _behaviour(half, 3, FQESettings(**QUICK, num_steps=30))
    t, rows = half.dataset.transitions, half.episode_rows
    index = t.act[:, 0].astype(int)
    model = fit_behaviour(t.obs, index, rows, 3, (32,))
    unseen = np.repeat(np.isin(np.arange(len(rows)), model.validation), rows)
    assert 0 < unseen.sum() < len(unseen) / 3
    assert found == calibration(model.probabilities(t.obs)[unseen], index[unseen], 80)
    np.testing.assert_allclose(probabilities, model.probabilities(t.obs))


def test_without_held_out_episodes_actions_are_compared_with_those_of_other_episodes():
    rng, count = np.random.default_rng(0), 2000
    obs = rng.uniform(-1, 1, (count, 2))
    zeros = np.zeros(count)
    t = Transitions(
        obs=obs, act=rng.uniform(-1, 1, (count, 1)), rew=zeros, terminated=zeros, truncated=zeros,
        obs_next=obs,
    )  # fmt: skip
    dataset = made_up(t, Box(-1, 1, (1,)), np.full(200, 10))
    found = off_policy([], Evidence(dataset), None, FQESettings())
    assert found.behaviour["support"] == pytest.approx(0.95, abs=0.005)  # its own would be 1


def test_notes_are_made_where_a_number_is_beyond_its_mark(evidence):
    table = pd.DataFrame({"fqe": [3.0, 2.0, 1.0], "fqe_high": [3.5, 3.1, 2.0], "run": list("abc")})
    (note,) = notes._of_first(table)
    assert note.startswith("1 interval of another policy includes the value of the first")
    assert not [*notes._of_first(table.assign(fqe_high=[9.0, 2.9, 2.0]))]
    best = evidence.returns(GAMMA, None).max()
    settings = FQESettings(gamma=GAMMA)
    (note,) = notes._of_values(table.assign(fqe=[best + 1, best - 1, 0]), evidence, settings)
    assert note.startswith("1 policy is valued above the best recorded episode")
    assert not [*notes._of_values(table.assign(fqe=[best, best - 1, 0]), evidence, settings)]
    (note,) = notes._of_support(pd.DataFrame({"support": [0.2, 0.6, 0.4]}))
    assert note.startswith("2 policies take actions that the data do not support in more than 50%")
    assert not [*notes._of_support(pd.DataFrame({"support": [0.5, 0.6, np.nan]}))]


def test_a_behaviour_model_is_doubted_by_its_calibration_and_stated_numbers_by_the_model():
    found = Calibration(10, 0.8, 0.5, 0.7, 0.05, ())
    (note,) = notes._of_behaviour(found, None)
    assert "in 80% of steps, the expected calibration error is 0.05" in note
    _, note = notes._of_behaviour(replace(found, error=0.2), None)
    assert "poorly calibrated" in note
    (_,) = notes._of_behaviour(found, 0.5)
    (_,) = notes._of_behaviour(found, 0.1)
    _, note = notes._of_behaviour(found, 0.6)
    assert "(log loss 0.60) than a fitted model (0.50)" in note


def test_a_reward_after_the_cut_of_episodes_is_weighed_by_their_length():
    """Two episodes of 10 steps are cut, one of 40 terminates."""
    ends = np.zeros(60, dtype=bool)
    ends[-1] = True
    steps, rows = SimpleNamespace(terminated=ends), np.array([10, 10, 40])
    judged = Evidence(SimpleNamespace(transitions=steps, episode_rows=rows, held_out=None))
    table = pd.DataFrame({"run": ["a"], "ess": [9.0]})
    (note,) = notes._of_weights(table, judged, FQESettings(gamma=GAMMA, epsilon=0.0))
    assert note.startswith("67% of the episodes are cut where a reward still weighs 35%")
    assert not [*notes._of_weights(table, judged, FQESettings(gamma=0.7, epsilon=0.0))]


def test_support_is_the_chance_of_an_action_that_is_taken():
    behaviour = np.array([[0.995, 0.005], [0.5, 0.5]])
    policy = np.array([[0.0, 1.0], [0.3, 0.7]])
    assert discrete_support(policy, behaviour) == pytest.approx(0.5)


def test_continuous_actions_are_supported_where_such_were_recorded_nearby():
    rng = np.random.default_rng(0)

    def steps(count):
        obs = rng.uniform(-1, 1, (count, 2)).astype(np.float32)
        act = np.sin(3 * obs[:, :1]) / 2 + 0.05 * rng.standard_normal((count, 1))
        zeros = np.zeros(count)
        return Transitions(
            obs=obs, act=act, rew=zeros, terminated=zeros, truncated=zeros, obs_next=obs
        )

    class Same:
        obs = act = staticmethod(lambda x: x)

    nearest = NearestActions(steps(3000), steps(500), Same())
    assert nearest.share(nearest.act) == pytest.approx(0.95, abs=0.01)
    assert nearest.share(np.sin(3 * nearest.obs[:, :1]) / 2) > 0.95
    assert nearest.share(np.sin(3 * nearest.obs[:, :1]) / 2 + 0.5) < 0.02
    half = np.where(nearest.obs[:, 1:] > 0, nearest.act, -2.0)
    assert nearest.share(half) == pytest.approx((nearest.obs[:, 1] > 0).mean() * 0.95, abs=0.03)
