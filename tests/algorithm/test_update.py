"""The public update: any modules, any arrays, from a buffer; statistics; saving and going on."""

import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import nn

from bcq_exp import BCQ, AdamOptimizerFactory, Batch, BCQPolicy, BCQTrainingStats, Transitions
from tests.algorithm.small import make_batch, make_bcq, make_policy, snapshot
from tests.golden.replay import NAMES, Golden


class Rows(nn.Module):
    """A network of one's own: plain rows (R, O) and (R, A) only."""

    def __init__(self, *sizes):
        super().__init__()
        for number, (fan_in, fan_out) in enumerate(pairwise(sizes), 1):
            setattr(self, f"l{number}", nn.Linear(fan_in, fan_out, dtype=torch.float64))

    def run(self, obs, act):
        assert obs.dim() == act.dim() == 2
        assert len(obs) == len(act)
        hidden = self.l1(torch.cat([obs, act], 1)).relu()
        return self.l3(self.l2(hidden).relu())

    def forward(self, obs, act):
        return self.run(obs, act)


class Moves(Rows):
    def __init__(self, *sizes, phi, max_action):
        super().__init__(*sizes)
        self.phi, self.max_action = phi, max_action

    def forward(self, obs, act):
        moved = act + self.phi * self.max_action * torch.tanh(self.run(obs, act))
        return moved.clamp(-self.max_action, self.max_action)


class Generates(nn.Module):
    """A VAE that draws its own noise, here from a list, and ignores whatever else it is given."""

    def __init__(self, golden):
        super().__init__()
        obs, act, latent, hidden = (
            golden.obs_dim,
            golden.act_dim,
            golden.latent_dim,
            golden.vae_hidden,
        )
        for name, sizes in {
            "e1": (obs + act, hidden),
            "e2": (hidden, hidden),
            "mean": (hidden, latent),
            "log_std": (hidden, latent),
            "d1": (obs + latent, hidden),
            "d2": (hidden, hidden),
            "d3": (hidden, act),
        }.items():
            setattr(self, name, nn.Linear(*sizes, dtype=torch.float64))
        self.max_action = golden.max_action
        self.eps, self.latents = [], []

    def forward(self, obs, act, *extra):
        hidden = self.e2(self.e1(torch.cat([obs, act], 1)).relu()).relu()
        mean, std = self.mean(hidden), self.log_std(hidden).clamp(-4, 15).exp()
        return self._decode(obs, mean + std * self.eps.pop(0)), mean, std

    def decode(self, obs, *extra):
        return self._decode(obs, self.latents.pop(0).clamp(-0.5, 0.5))

    def _decode(self, obs, latent):
        assert obs.dim() == 2
        hidden = self.d2(self.d1(torch.cat([obs, latent], 1)).relu()).relu()
        return self.max_action * torch.tanh(self.d3(hidden))


def foreign(golden):
    """The authors' networks as somebody else's modules, under the authors' own layer names."""
    rows = (golden.obs_dim + golden.act_dim, golden.hidden, golden.hidden)
    options = {"phi": golden.phi, "max_action": golden.max_action}
    return {
        "actor": Moves(*rows, golden.act_dim, **options),
        "critic": Rows(*rows, 1),
        "critic2": Rows(*rows, 1),
        "vae": Generates(golden),
    }


def authors(golden, when, network):
    """The authors' parameters of one network."""
    where, second = network.replace("critic2", "critic"), "critic2" in network
    prefix = f"{when}/{where}/"
    state = {k[len(prefix) :]: golden.tensor(k) for k in golden.arrays if k.startswith(prefix)}
    if "critic" not in network:
        return state
    layers = (
        {"l4": "l1", "l5": "l2", "l6": "l3"} if second else {f"l{i}": f"l{i}" for i in (1, 2, 3)}
    )
    return {
        f"{layers[k.split('.')[0]]}.{k.split('.')[1]}": v
        for k, v in state.items()
        if k.split(".")[0] in layers
    }


@pytest.mark.parametrize("name", NAMES)
def test_custom_modules_give_the_authors_parameters(name):
    golden = Golden(name)
    networks = foreign(golden)
    bound = np.full(golden.act_dim, golden.max_action)
    adam = AdamOptimizerFactory(lr=golden.lr)
    bcq = BCQ(
        policy=BCQPolicy(
            actor_perturbation=networks["actor"],
            critic=networks["critic"],
            vae=networks["vae"],
            action_space=Box(-bound, bound, dtype=np.float64),
        ),
        actor_perturbation_optim=adam,
        critic_optim=adam,
        vae_optim=adam,
        critic2=networks["critic2"],
        gamma=golden.gamma,
        tau=golden.tau,
        lmbda=golden.lmbda,
        num_sampled_action=golden.num_sampled_action,
    )
    networks |= {
        "actor_target": bcq.actor_perturbation_target,
        "critic_target": bcq.critic_target,
        "critic2_target": bcq.critic2_target,
    }
    for key, module in networks.items():  # the targets, too, begin elsewhere than their sources
        module.load_state_dict(authors(golden, "init", key))
    for step in range(golden.first_step, golden.first_step + golden.steps):
        noise = golden.noise(step)
        networks["vae"].eps = [noise.vae_eps]
        networks["vae"].latents = [noise.target.flatten(0, 1), noise.actor]
        stats = bcq.update_with_batch(golden.batch(step))
        assert stats.losses() == pytest.approx(
            {k: v for k, v in golden.losses(step).items() if k in stats.losses()}, rel=1e-9
        )
        assert networks["vae"].eps == networks["vae"].latents == []  # each drawn once
        for key, module in networks.items():
            actual = module.state_dict()
            for layer, value in authors(golden, f"after{step}", key).items():
                torch.testing.assert_close(actual[layer], value, rtol=1e-9, atol=1e-11)


def test_a_policy_of_custom_modules_acts():
    golden = Golden("small")
    networks = foreign(golden)
    bound = np.full(golden.act_dim, golden.max_action)
    policy = BCQPolicy(
        actor_perturbation=networks["actor"],
        critic=networks["critic"],
        vae=networks["vae"],
        action_space=Box(-bound, bound, dtype=np.float64),
        forward_sampled_times=3,
    )
    torch.manual_seed(0)
    obs, latent = torch.randn(4, golden.obs_dim).double(), torch.randn(12, golden.latent_dim)
    networks["vae"].latents = [latent.double()]
    act = policy(Batch(obs=obs)).act
    networks["vae"].latents = [latent.double()]
    rows = obs.repeat_interleave(3, 0)
    sampled = networks["actor"](rows, networks["vae"].decode(rows))
    best = networks["critic"](rows, sampled).reshape(4, 3).argmax(1) + 3 * torch.arange(4)
    np.testing.assert_allclose(act, sampled[best].detach().numpy(), rtol=1e-12)


def transitions(size=40):
    batch = make_batch(size)
    return Transitions(
        obs=batch.obs.numpy(),
        act=batch.act.numpy(),
        rew=batch.rew.numpy(),
        terminated=batch.terminated.numpy(),
        truncated=np.zeros(size, bool),
        obs_next=batch.obs_next.numpy(),
    )


def test_update_samples_the_buffer_and_takes_that_step(monkeypatch):
    buffer, drawn = transitions(), []

    def sample(self, size, sample=Transitions.sample):
        drawn.append(sample(self, size, np.random.default_rng(3)))
        return drawn[-1]

    monkeypatch.setattr(Transitions, "sample", sample)
    sampled, given = make_bcq(), make_bcq()
    torch.manual_seed(9)
    stats = sampled.update(buffer, 8)
    torch.manual_seed(9)
    expected = given.update_with_batch(drawn[0])
    assert len(drawn[0]) == 8
    assert isinstance(stats, BCQTrainingStats)
    assert stats.losses() == expected.losses()
    for name, value in snapshot(given).items():
        assert torch.equal(snapshot(sampled)[name], value)


def test_update_takes_a_buffer_that_returns_indices_too():
    class Buffer:
        def sample(self, size):
            return make_batch(size), np.arange(size)

    bcq, other = make_bcq(), make_bcq()
    torch.manual_seed(9)
    stats = bcq.update(Buffer(), 5)
    torch.manual_seed(9)
    assert stats.losses() == other.update_with_batch(make_batch(5)).losses()


def test_arrays_lists_and_columns_are_the_same_batch():
    batch = make_batch()
    named = {name: getattr(batch, name) for name in batch.keys()}  # noqa: SIM118
    forms = [
        named,
        {name: x.numpy() for name, x in named.items()},
        {name: x.tolist() for name, x in named.items()},
        named | {"rew": batch.rew[:, None], "terminated": batch.terminated.bool()[:, None]},
    ]
    results = []
    for form in forms:
        bcq = make_bcq()
        torch.manual_seed(4)
        results.append(bcq.update_with_batch(Batch(**form)).losses())
    assert all(result == results[0] for result in results)


def test_repeated_updates_fit_the_batch():
    bcq, batch = make_bcq(lr=0.05, gamma=0.0), make_batch(32)
    torch.manual_seed(0)
    losses = [bcq.update_with_batch(batch) for _ in range(300)]
    assert np.mean([s.vae_loss for s in losses[-20:]]) < np.mean([s.vae_loss for s in losses[:20]])
    assert losses[-1].critic1_loss < 0.6 * losses[0].critic1_loss
    assert losses[-1].critic2_loss < 0.6 * losses[0].critic2_loss


def test_smoothed_losses_are_means_of_the_last_hundred_updates():
    bcq, batch = make_bcq(), make_batch()
    stats = [bcq.update_with_batch(batch) for _ in range(103)]
    assert stats[0].smoothed_loss == stats[0].losses()
    for name in stats[0].losses():
        recent = [s.losses()[name] for s in stats]
        assert stats[2].smoothed_loss[name] == pytest.approx(np.mean(recent[:3]))
        assert stats[-1].smoothed_loss[name] == pytest.approx(np.mean(recent[-100:]))
    assert all(s.train_time > 0 for s in stats)


def test_a_state_dict_continues_bit_for_bit():
    adam = AdamOptimizerFactory(lr=0.01)
    optims = {"actor_perturbation_optim": adam, "critic_optim": adam, "vae_optim": adam}
    one, other = make_bcq(**optims), make_bcq(make_policy(seed=8), **optims)
    torch.manual_seed(0)
    for seed in range(5):
        one.update_with_batch(make_batch(seed=seed))
    other.load_state_dict(one.state_dict())
    for bcq in (one, other):
        torch.manual_seed(1)
        for seed in range(5, 10):
            bcq.update_with_batch(make_batch(seed=seed))
    for name, value in snapshot(one).items():
        assert torch.equal(snapshot(other)[name], value), name


@pytest.mark.parametrize(
    ("name", "shape"),
    [("obs_next", (1, 3)), ("act", (1, 6, 2)), ("act", (6,)), ("rew", (5,)), ("terminated", ())],
)
def test_an_entry_of_another_shape_is_named(name, shape):
    batch = Batch(**{**vars(make_batch()), name: torch.zeros(shape)})
    with pytest.raises(
        ValueError, match=rf"^{name} must have the shape .*{re.escape(str(shape))}$"
    ):
        make_bcq().update_with_batch(batch)


def test_a_batch_names_what_it_lacks():
    with pytest.raises(AttributeError, match="no 'rew', only"):
        make_bcq().update_with_batch(Batch(obs=np.zeros((1, 3)), act=np.zeros((1, 2))))
