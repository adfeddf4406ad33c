"""Fitted Q evaluation against values that are known: in closed form, by importance sampling."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.fqe import FQE
from bcq_exp.algorithm.networks import Critic
from bcq_exp.algorithm.optim import AdamOptimizerFactory
from bcq_exp.analysis.statistics import margin
from bcq_exp.config.fqe_settings import FQESettings
from bcq_exp.data.transitions import Transitions
from bcq_exp.selection.candidates import Evidence
from bcq_exp.selection.critics import Units, _rows_of
from bcq_exp.selection.estimates import is_better
from bcq_exp.selection.fitted_q import FittedQ, Values, estimate_row
from tests.selection.tabular import made_up

NUM_STATES, GAMMA = 4, 0.9


def chain(num_episodes=200, horizon=10, seed=0):
    """A chain: a positive action moves on, from the last state out of the task; reward s - |a|."""
    rng = np.random.default_rng(seed)
    rows, lengths = [], []
    for _ in range(num_episodes):
        state = rng.integers(NUM_STATES)
        for count in range(1, horizon + 1):
            act = rng.uniform(-1, 1)
            moved = state + (act > 0)
            ends = moved == NUM_STATES
            after = state if ends else moved
            rows.append((state, act, state - abs(act), ends, count == horizon, after))
            state = after
            if ends:
                break
        lengths.append(count)
    obs, act, rew, terminated, truncated, obs_next = map(np.array, zip(*rows, strict=True))
    one_hot = np.eye(NUM_STATES, dtype=np.float32)
    transitions = Transitions(
        obs=one_hot[obs],
        act=act[:, None],
        rew=rew,
        terminated=terminated,
        truncated=truncated & ~terminated,
        obs_next=one_hot[obs_next],
    )
    return Evidence(made_up(transitions, Box(-1, 1, (1,)), lengths))


def chain_values(policy, gamma=GAMMA):
    """V of a policy (NUM_STATES,), by the linear equations."""
    matrix, rewards = np.eye(NUM_STATES), np.arange(NUM_STATES) - np.abs(policy)
    for state, act in enumerate(policy):
        if state + (act > 0) < NUM_STATES:
            matrix[state, state + (act > 0)] -= gamma
    return np.linalg.solve(matrix, rewards)


def fit(evidence, policies, path, **settings):
    """FittedQ of policies that are functions of observations (N, O) -> (N, A)."""
    obs_next, first = evidence.dataset.transitions.obs_next, evidence.first_obs
    fitted = FittedQ(
        evidence,
        np.stack([policy(obs_next) for policy in policies]).astype(np.float32),
        np.stack([policy(first) for policy in policies]).astype(np.float32),
        FQESettings(**{"gamma": GAMMA, "batch_size": 64, **settings}),
    )
    fitted.fit(path)
    return fitted


def of_all(fitted):
    """Every critic's value where episodes begin (P, M)."""
    return np.stack([values.of_all for values in fitted.estimates()])


CHAIN = [
    np.array([0.5, 0.5, 0.5, 0.5]),  # goes out
    np.array([0.5, 0.5, 0.5, -0.5]),  # stays at the end
    np.array([-0.5, -0.5, -0.5, -0.5]),  # stays where it begins
]


POLICIES = [lambda obs, acts=acts: obs @ acts[:, None] for acts in CHAIN]
QUICK = {"lr": 3e-3, "num_members": 2, "num_steps": 1000}


def test_the_values_of_a_chain_are_those_of_its_equations(tmp_path):
    evidence = chain()
    fitted = fit(evidence, POLICIES, tmp_path / "fqe.pt", tau=0.05, **QUICK)
    found = of_all(fitted)
    starts = evidence.first_obs.argmax(1)
    for values, acts in zip(found, CHAIN, strict=True):
        known = chain_values(acts)[starts].mean()
        assert values.mean() == pytest.approx(known, abs=0.05 * max(1, abs(known)))


@pytest.mark.slow
def test_the_defaults_come_to_their_end_at_their_discount(tmp_path):
    evidence = chain()
    staying = POLICIES[1:]  # for ever: worth a hundred times what a step is
    usual = {"gamma": 0.99, "batch_size": FQESettings.batch_size, "num_members": 2}
    found = of_all(fit(evidence, staying, tmp_path / "fqe.pt", num_steps=5000, **usual))
    starts = evidence.first_obs.argmax(1)
    for values, acts in zip(found, CHAIN[1:], strict=True):
        known = chain_values(acts, 0.99)[starts].mean()
        assert values.mean() == pytest.approx(known, rel=0.2)  # 0.22 of it with a tau of 0.005


def test_the_share_of_its_values_that_an_evaluation_reaches_is_known_beforehand():
    assert FQESettings().share_reached > 0.98
    assert FQESettings().target_tau == pytest.approx(0.025, abs=5e-4)  # as docs/selection.md says
    assert FQESettings(num_steps=600).share_reached < 0.7
    assert FQESettings(tau=0.005).share_reached < 0.7
    assert FQESettings(gamma=0.9, num_steps=2000).share_reached > 0.98
    assert FQESettings(num_steps=100).target_tau == 1.0
    assert 0 < FQESettings(gamma=1.0).target_tau <= 1


def test_targets_stay_within_what_rewards_can_come_to(tmp_path):
    evidence = chain(40)
    found = fit(evidence, POLICIES, tmp_path / "a.pt", num_steps=20, tau=1.0)
    fqe = found._engine.algorithm(0)
    hyper = fqe.hyperparameters
    worst, best = evidence.dataset.transitions.rew.min(), evidence.dataset.transitions.rew.max()
    scale = found._units.scale
    assert hyper.v_min * scale == pytest.approx(worst / (1 - GAMMA))
    assert hyper.v_max * scale == pytest.approx(best / (1 - GAMMA))
    with pytest.raises(ValueError, match="v_min must not be above v_max"):
        FQE(critic=fqe.critic, critic_optim=AdamOptimizerFactory(lr=0.1), v_min=1.0, v_max=0.0)


@pytest.mark.parametrize(
    ("rew", "ends"),
    [
        ([1.0, 2.0, 3.0], (1.0, 30.0)),  # one reward of 1 and the end, or 3 for ever
        ([-3.0, -2.0, -1.0], (-30.0, -1.0)),
        ([-1.0, 0.0, 2.0], (-10.0, 20.0)),
        ([0.0, 0.0, 4.0], (0.0, 40.0)),
    ],
)
def test_values_are_between_the_least_and_the_most_that_rewards_can_make(rew, ends):
    obs, act = np.array([[0.0], [10.0], [20.0]]), np.array([[2.0, 0.0], [4.0, 0.5], [6.0, 1.0]])
    flags = np.zeros(3, dtype=bool)
    t = Transitions(obs=obs, act=act, rew=rew, terminated=flags, truncated=flags, obs_next=obs)
    units = Units.of(t, Box(np.float32([2, 0]), np.float32([6, 1])), FQESettings(gamma=0.9))
    assert units.value(np.array(units.value_range)) == pytest.approx(ends)
    assert units.scale == pytest.approx(10 * np.abs(rew).mean())
    scaled = units(t)
    np.testing.assert_allclose(scaled.obs[:, 0], [-(1.5**0.5), 0, 1.5**0.5], rtol=1e-5)
    np.testing.assert_allclose(scaled.act, [[-1, -1], [0, 0], [1, 1]], atol=1e-6)
    np.testing.assert_allclose(units.value(scaled.rew), rew, rtol=1e-6)


def test_a_known_range_of_returns_bounds_the_values(tmp_path):
    found = fit(chain(40), POLICIES, tmp_path / "a.pt", num_steps=20, return_range=(-1.0, 2.0))
    hyper, scale = found._engine.algorithm(0).hyperparameters, found._units.scale
    assert (hyper.v_min * scale, hyper.v_max * scale) == pytest.approx((-1.0, 2.0))


def test_of_a_horizon_only_its_steps_count_discounted_or_not(tmp_path):
    """Three steps without a discount, of the policy that stays at the end: by hand."""
    evidence, stays = chain(), CHAIN[1]
    value = np.zeros(NUM_STATES)
    for _ in range(3):
        value = np.arange(NUM_STATES) - 0.5 + value[np.minimum(np.arange(4) + (stays > 0), 3)]
    expected = (evidence.first_obs @ value).mean()
    settings = {"gamma": 1.0, "horizon": 3}
    found = of_all(fit(evidence, POLICIES[1:2], tmp_path / "a.pt", **settings, **QUICK))
    np.testing.assert_allclose(found, expected, rtol=0.1)


def test_the_behaviour_is_valued_as_recorded(tmp_path):
    """By the actions that it took next; over whole episodes that is their mean return."""
    evidence = chain()
    after, first = evidence.behaviours_actions
    rows = evidence.episode_rows
    assert (after[0] == evidence.dataset.transitions.act[1]).all() == (rows[0] > 1)
    assert (first == evidence.dataset.transitions.act[evidence.step_numbers == 0]).all()
    settings = FQESettings(gamma=1.0, horizon=10, batch_size=64, **QUICK)
    fitted = FittedQ(evidence, after[None], first[None], settings)
    fitted.fit(tmp_path / "a.pt")
    returns = evidence.returns(1.0, 10)
    assert returns.mean() == pytest.approx(evidence.dataset.behaviour_return)
    np.testing.assert_allclose(of_all(fitted), returns.mean(), rtol=0.15)


def test_a_policy_is_better_where_every_member_agrees_beyond_chance():
    behaviour = Values(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0]))
    assert is_better(Values(*(behaviour[0] + [5, 5.1, 4.9],) * 2), behaviour) == "yes"
    assert is_better(Values(*(behaviour[0] - [5, 5.1, 4.9],) * 2), behaviour) == "no"
    assert is_better(Values(*(behaviour[0] + [5, -4, 1],) * 2), behaviour) == "cannot tell"
    assert is_better(Values(*(behaviour[0] * np.nan,) * 2), behaviour) == "cannot tell"
    drawn = behaviour.of_drawn + np.array([5, 5.1, 4.9])  # the estimate is that of all episodes
    assert is_better(Values(behaviour.of_all - 1, drawn), behaviour) == "no"


def test_without_a_reward_values_are_0_not_diverged(tmp_path):
    evidence = chain(40)
    t = evidence.dataset.transitions
    without = replace(evidence.dataset, transitions=t.replace(rew=np.zeros_like(t.rew)))
    found = of_all(fit(Evidence(without), POLICIES, tmp_path / "a.pt", **QUICK))
    np.testing.assert_allclose(found, 0, atol=0.05)


def test_a_member_sees_all_of_its_episodes_each_as_often_as_drawn():
    rows = _rows_of(np.array([2, 0, 2]), np.array([3, 4, 2]))
    assert rows.tolist() == [7, 8, 0, 1, 2, 7, 8]


@pytest.mark.slow
def test_pendulums_stochastic_behaviour_by_importance_sampling(tmp_path):
    """A policy near the behaviour's: by per-decision importance sampling, and by running it."""
    gamma, horizon, std = 0.8, 25, 0.6
    rng = np.random.default_rng(0)

    def torque(obs, gain):
        return np.clip(-gain * obs[..., 2:], -1, 1)

    def episodes(gain, count):
        envs = gym.make_vec("Pendulum-v1", count, vectorization_mode="sync")
        obs, _ = envs.reset(seed=0)
        steps = []
        for _ in range(horizon):
            act = (torque(obs, gain) + std * rng.standard_normal((count, 1))).astype(np.float32)
            after, rew, *_ = envs.step(act)
            steps.append((obs, act, rew, after))
            obs = after
        return tuple(np.stack(part, 1) for part in zip(*steps, strict=True))

    obs, act, rew, after = episodes(0.1, 300)  # (E, T, ...)
    discounts = gamma ** np.arange(horizon)

    def log_density(gain):
        return -np.square((act - torque(obs, gain)) / std).sum(-1) / 2

    weights = np.exp(np.cumsum(log_density(0.3) - log_density(0.1), 1))
    sampled = (weights * discounts * rew).sum(1)
    truth = (discounts * episodes(0.3, 1000)[2]).sum(1).mean()
    error = sampled.std() / np.sqrt(len(sampled))
    assert abs(sampled.mean() - truth) < 3 * error

    flat = {
        name: np.reshape(values, (-1, *values.shape[2:])).astype(np.float32)
        for name, values in (("obs", obs), ("act", act), ("rew", rew), ("obs_next", after))
    }
    ends = np.tile(np.arange(horizon) == horizon - 1, 300)
    transitions = Transitions(**flat, terminated=np.zeros_like(ends), truncated=ends)
    evidence = Evidence(made_up(transitions, Box(-4, 4, (1,)), [horizon] * 300))

    def acts(obs):
        return torque(obs, 0.3) + std * rng.standard_normal((len(obs), 1))

    found = of_all(
        fit(evidence, [acts], tmp_path / "fqe.pt", gamma=gamma, num_steps=3000, tau=0.02)
    )
    assert found.mean() == pytest.approx(sampled.mean(), abs=3 * error)
    assert found.mean() == pytest.approx(truth, rel=0.06)


def test_the_same_seed_gives_the_same_bits_and_a_stop_changes_none(tmp_path):
    evidence, policies = chain(40), POLICIES[:1]
    once = of_all(fit(evidence, policies, tmp_path / "a.pt", num_steps=60))
    again = fit(evidence, policies, tmp_path / "b.pt", num_steps=60)
    assert np.array_equal(of_all(again), once)

    class Stopped(Exception):
        pass

    obs_next, first = evidence.dataset.transitions.obs_next, evidence.first_obs
    parts = [np.stack([p(x) for p in policies]).astype(np.float32) for x in (obs_next, first)]
    settings = FQESettings(gamma=GAMMA, batch_size=64, num_steps=60)

    def stop(step, losses):
        if step >= 30:
            raise Stopped

    with pytest.raises(Stopped):
        FittedQ(evidence, *parts, settings).fit(tmp_path / "c.pt", stop)
    resumed = FittedQ(evidence, *parts, settings)
    steps = []
    resumed.fit(tmp_path / "c.pt", lambda step, losses: steps.append(step))
    assert steps[0] == 36
    assert np.array_equal(of_all(resumed), once)

    other = of_all(fit(evidence, policies, tmp_path / "c.pt", num_steps=60, seed=1))
    assert not np.isclose(other, once).any(), "another evaluation is not taken up"
    fit(evidence, policies, tmp_path / "c.pt", num_steps=60)  # in its place
    for others in (
        (evidence, parts[0] + 0.01, parts[1]),
        (evidence, parts[0], parts[1] + 0.01),
        (Evidence(replace(evidence.dataset, content_hash="x")), *parts),
    ):
        stranger = FittedQ(*others, settings)
        stranger._take_up(tmp_path / "c.pt")
        assert stranger.step == 0, "other actions or data are another evaluation"
    same = FittedQ(evidence, *parts, replace(settings, epsilon=0.5))  # which critics do not read
    same._take_up(tmp_path / "c.pt")
    assert same.step == 60
    (tmp_path / "c.pt").write_bytes(b"cut")
    assert np.array_equal(of_all(fit(evidence, policies, tmp_path / "c.pt", num_steps=60)), once)


def test_an_interval_is_that_of_every_statistic(tmp_path):
    evidence, settings = chain(40), FQESettings(gamma=GAMMA, batch_size=64, num_members=3)
    fitted = fit(evidence, POLICIES, tmp_path / "a.pt", num_steps=60, num_members=3)
    for values in fitted.estimates():
        assert (values.of_drawn != values.of_all).all()
        row = estimate_row(60, values, settings)
        assert row["fqe"] == pytest.approx(values.of_all.mean())
        half = margin(2) * np.std(values.of_drawn, ddof=1)
        assert (row["fqe_low"], row["fqe_high"]) == pytest.approx(
            (row["fqe"] - half, row["fqe"] + half)
        )
    one = FQESettings(num_members=1)
    row = estimate_row(60, Values(np.array([1.0]), np.array([2.0])), one)
    assert (row["fqe"], row["fqe_low"], row["fqe_high"]) == (1.0, None, None)


def test_members_of_two_seeds_have_nothing_in_common(tmp_path):
    evidence = chain(40)
    one, other = (
        of_all(fit(evidence, POLICIES, tmp_path / "a.pt", num_steps=3, seed=seed))
        for seed in (0, 1)
    )
    assert not np.isclose(one[:, :, None], other[:, None, :]).any()


def test_a_value_that_no_rewards_could_make_is_none(tmp_path):
    found = fit(chain(40), POLICIES, tmp_path / "a.pt", num_steps=200, lr=30.0)
    assert np.isnan(of_all(found)).any()


def test_a_policy_among_others_has_the_value_that_it_has_alone(tmp_path):
    evidence, policies = chain(40), POLICIES
    many = of_all(fit(evidence, policies * 3, tmp_path / "m.pt", num_steps=60))
    assert np.allclose(many[:3], many[3:6], rtol=1e-4) and np.allclose(
        many[:3], many[6:], rtol=1e-4
    )
    for policy, expected in zip(policies, many, strict=False):
        alone = of_all(fit(evidence, [policy], tmp_path / "o.pt", num_steps=60))
        np.testing.assert_allclose(alone[0], expected, rtol=1e-4)


def test_an_update_is_the_regression_of_the_paper():
    torch.manual_seed(0)
    critic = Critic(obs_dim=3, act_dim=2, hidden_sizes=(8,)).double()
    fqe = FQE(critic=critic, critic_optim=AdamOptimizerFactory(lr=1e-3), gamma=0.9, tau=0.5)
    batch = Batch(
        obs=torch.randn(5, 3), act=torch.randn(5, 2), rew=torch.randn(5),
        terminated=torch.tensor([0.0, 1, 0, 0, 1]), obs_next=torch.randn(5, 3),
        act_next=torch.randn(5, 2),
    )  # fmt: skip
    with torch.no_grad():
        q = fqe.value(batch.obs.double(), batch.act.double())
        q_next = fqe.value(batch.obs_next.double(), batch.act_next.double())
        target = batch.rew + 0.9 * (1 - batch.terminated) * q_next
    before = [param.clone() for param in critic.parameters()]
    stats = fqe.update_with_batch(batch)
    assert stats.critic_loss == pytest.approx(((q - target) ** 2).mean().item())
    for old, new, lagged in zip(
        before, critic.parameters(), fqe.critic_target.parameters(), strict=True
    ):
        assert torch.allclose(lagged, (old + new) / 2)


@pytest.mark.parametrize("number", [{"gamma": 1.1}, {"tau": 0.0}])
def test_numbers_out_of_range_are_refused(number):
    critic = Critic(obs_dim=3, act_dim=2, hidden_sizes=(8,))
    with pytest.raises(ValueError, match=next(iter(number))):
        FQE(critic=critic, critic_optim=AdamOptimizerFactory(), **number)
