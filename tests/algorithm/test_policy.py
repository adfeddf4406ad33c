"""Acting: the best of the perturbed samples, each row by itself."""

import re

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import nn

from bcq_exp import Batch
from bcq_exp.algorithm import losses
from bcq_exp.algorithm.discrete import DiscretePolicy
from bcq_exp.algorithm.policy import DeterministicPolicy
from tests.algorithm.small import ACT_DIM, LATENT_DIM, OBS_DIM, SPACE, make_policy

OBS = torch.randn(5, OBS_DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


def test_the_action_is_the_perturbed_sample_of_largest_q1():
    policy = make_policy(forward_sampled_times=7)
    act = policy(Batch(obs=OBS), generator=seeded()).act
    latent = torch.randn(5, 7, LATENT_DIM, generator=seeded(), dtype=torch.float64).clamp(-0.5, 0.5)
    assert isinstance(act, np.ndarray)
    for i, obs in enumerate(OBS):
        candidates = [policy.actor_perturbation(obs, policy.vae.decode(obs, z)) for z in latent[i]]
        values = [policy.critic(obs, candidate).item() for candidate in candidates]
        best = candidates[int(np.argmax(values))].detach().numpy()
        np.testing.assert_allclose(act[i], best, rtol=1e-12)
        assert max(values) > min(values)
    assert act.shape == (5, ACT_DIM)


def test_each_rows_action_depends_on_that_row_alone():
    policy = make_policy()
    normal = torch.randn(5, 9, LATENT_DIM, generator=seeded(), dtype=torch.float64)

    def act(rows):
        return losses.best_action(
            policy.vae, policy.actor_perturbation, policy.critic, normal[rows], OBS[rows]
        ).detach()

    together = act(torch.arange(5))
    order = torch.tensor([4, 1, 3, 0, 2])
    torch.testing.assert_close(act(order), together[order], rtol=1e-12, atol=1e-14)
    for i in range(5):
        alone = act(torch.tensor([i]))[0]
        torch.testing.assert_close(alone, together[i], rtol=1e-12, atol=1e-14)
    assert len({tuple(row) for row in together.tolist()}) == 5


def test_one_pass_whatever_the_number_of_rows():
    policy = make_policy(forward_sampled_times=6)
    calls = []
    policy.critic.register_forward_hook(lambda *_: calls.append(1))
    policy(Batch(obs=OBS))
    policy(Batch(obs=OBS.repeat(20, 1)))
    assert len(calls) == 2


@pytest.mark.parametrize(
    "form",
    [OBS, OBS.float(), OBS.numpy(), OBS.tolist(), list(OBS.numpy()), OBS.flip(0).numpy()[::-1]],
    ids=["tensor", "float32", "array", "lists", "list of arrays", "reversed"],
)
def test_observations_may_be_arrays_lists_or_tensors(form):
    policy = make_policy()
    expected = policy(Batch(obs=OBS), generator=seeded()).act
    np.testing.assert_allclose(policy(Batch(obs=form), generator=seeded()).act, expected, atol=1e-6)


def test_a_generator_decides_the_samples_and_leaves_torchs_own_alone():
    policy = make_policy()
    before = torch.get_rng_state()
    first, again, other = (policy(Batch(obs=OBS), generator=seeded(s)).act for s in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_generator_torchs_own_decides():
    policy = make_policy()
    acts = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        acts.append(policy(Batch(obs=OBS)).act)
    assert np.array_equal(acts[0], acts[1])
    assert not np.array_equal(acts[0], acts[2])


def test_the_state_is_handed_back():
    state = {"hidden": 1}
    assert make_policy()(Batch(obs=OBS), state).state is state


class AlwaysHighest(nn.Module):
    """A VAE of one's own that knows one action."""

    def decode(self, obs, *extra):
        return torch.as_tensor(SPACE.high).expand(len(obs), -1)


def test_an_action_beyond_one_is_not_squeezed():
    policy = make_policy(vae=AlwaysHighest())
    with torch.no_grad():
        act = policy(Batch(obs=OBS)).act
    assert (act[:, 1] > 2.0).all()  # at most 0.3 of half the range below 3
    assert np.array_equal(policy.map_action(act), act)


def test_predict_is_the_environments_action_and_the_state():
    policy = make_policy(action_scaling=True, forward_sampled_times=3)
    torch.manual_seed(5)
    act, state = policy.predict(OBS.numpy(), "kept", episode_start=np.ones(5, bool))
    torch.manual_seed(5)
    np.testing.assert_array_equal(act, policy.map_action(policy(Batch(obs=OBS)).act))
    assert state == "kept"
    assert policy.predict(OBS)[1] is None


@pytest.mark.parametrize("space", [None, Box(-np.inf, np.inf, (OBS_DIM,))], ids=["none", "space"])
def test_one_observation_is_one_action(space):
    policy = make_policy(observation_space=space)
    together, _ = policy.predict(OBS[:1], deterministic=True)
    alone, _ = policy.predict(OBS[0], deterministic=True)
    assert together.shape == (1, ACT_DIM)
    np.testing.assert_array_equal(alone, together[0])


@pytest.mark.parametrize(
    "shape", [(), (OBS_DIM,), (OBS_DIM + 1,), (5, OBS_DIM - 1), (5, 5, OBS_DIM)]
)
def test_observations_of_another_shape_are_refused_with_both_shapes(shape):
    space = Box(-1, 1, (OBS_DIM,))
    policy, obs = make_policy(observation_space=space), np.zeros(shape)
    words = rf"observations must have the shape \(B, {OBS_DIM}\), not {re.escape(str(shape))}"
    with pytest.raises(ValueError, match=words):
        policy(Batch(obs=obs))
    with pytest.raises(ValueError, match=words):
        policy.act(torch.as_tensor(obs))
    if shape != (OBS_DIM,):  # one, to predict
        with pytest.raises(ValueError, match=words):
            policy.predict(obs)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_predict_refuses_observations_that_are_not_finite(value):
    obs = OBS.clone()
    obs[2, 1] = value
    for form in (obs, obs.numpy(), obs[2].tolist()):
        with pytest.raises(ValueError, match="observations must be finite"):
            make_policy().predict(form)


def test_deterministic_predictions_are_equal_and_the_others_draw():
    policy = make_policy()
    before = torch.get_rng_state()
    first, again = (policy.predict(OBS, deterministic=True)[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert torch.equal(torch.get_rng_state(), before)
    assert not np.array_equal(policy.predict(OBS)[0], policy.predict(OBS)[0])


def test_a_saved_state_dict_is_the_policy():
    policy, other = make_policy(seed=0), make_policy(seed=1)
    assert not np.array_equal(*(p.predict(OBS, deterministic=True)[0] for p in (policy, other)))
    other.load_state_dict(policy.state_dict())
    np.testing.assert_array_equal(*(p.predict(OBS, deterministic=True)[0] for p in (policy, other)))


def test_fewer_than_one_sample_is_refused():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        make_policy(forward_sampled_times=0)


def test_a_discrete_action_space_is_refused():
    with pytest.raises(TypeError, match=r"Box.*Discrete\(3\)"):
        make_policy(action_space=Discrete(3))


def test_the_policys_map_follows_its_arguments():
    policy = make_policy(action_scaling=True, action_bound_method="tanh")
    act = np.array([[0.3, -0.7]])
    mapped = policy.map_action(act)
    np.testing.assert_allclose(mapped, [[np.tanh(0.3), 0.5 + 2.5 * np.tanh(-0.7)]])
    np.testing.assert_allclose(policy.map_action_inverse(mapped), act)
    assert isinstance(policy.action_space, Box)


def test_parts_of_a_batch_give_what_the_whole_does(monkeypatch):
    policy = make_policy(forward_sampled_times=6)
    whole = policy(Batch(obs=OBS), generator=seeded()).act
    monkeypatch.setitem(losses.ROWS_AT_ONCE, "cpu", 12)  # two states at a time
    calls = []
    policy.critic.register_forward_hook(lambda *_: calls.append(1))
    parts = policy(Batch(obs=OBS), generator=seeded()).act
    assert len(calls) == -(-len(OBS) // 2)
    assert parts == pytest.approx(whole, rel=1e-12)


def noisy_policy(kind, space, **options):
    network = nn.Sequential(nn.Linear(OBS_DIM, 4), nn.Dropout(), nn.BatchNorm1d(4), nn.Linear(4, 2))
    return kind(network.double(), action_space=space, **options)


class Greedy(DiscretePolicy):
    def __init__(self, network, **options):
        super().__init__(**options)
        self.network = network

    def scores(self, obs):
        return self.network(obs)


def test_networks_act_in_evaluation_mode_and_keep_theirs():
    torch.manual_seed(0)
    bounded = noisy_policy(lambda actor, **o: DeterministicPolicy(actor=actor, **o), SPACE)
    discrete = noisy_policy(Greedy, Discrete(2))
    bounded.actor[1].eval()
    for policy, act in (
        (bounded, bounded.act),
        (discrete, discrete.act),
        (discrete, lambda obs: discrete.action_probabilities(obs).numpy()),
    ):
        before = {name: part.training for name, part in policy.named_modules()}
        state = {name: value.clone() for name, value in policy.state_dict().items()}
        np.testing.assert_array_equal(act(OBS), act(OBS))
        np.testing.assert_allclose(act(OBS)[:1], act(OBS[:1]), rtol=1e-12)
        assert {name: part.training for name, part in policy.named_modules()} == before
        assert all((policy.state_dict()[name] == value).all() for name, value in state.items())
