"""One gradient step: who moves, by what target, and that rows do not mix."""

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.bcq import BCQ, Noise
from bcq_exp.algorithm.losses import vae_loss
from bcq_exp.algorithm.networks import Critic, Perturbation
from bcq_exp.algorithm.optim import SGDOptimizerFactory
from tests.algorithm.small import (
    BOUNDS,
    SIZES,
    SOURCES,
    TARGETS,
    make_batch,
    make_bcq,
    make_noise,
    make_policy,
    network,
    snapshot,
)

OPTIMIZERS = {
    "actor_perturbation": "actor_perturbation_optim",
    "critic": "critic_optim",
    "critic2": "critic2_optim",
    "vae": "vae_optim",
}


def step(bcq, batch=None, noise=None):
    """The statistics, and the networks before and after."""
    before = snapshot(bcq)
    batch = batch or make_batch()
    noise = noise or make_noise(bcq)
    statistics = {k: v.item() for k, v in bcq.gradient_step(batch, noise).items()}
    return statistics, before, snapshot(bcq)


@pytest.mark.parametrize("moving", SOURCES)
def test_an_optimizer_moves_its_own_network_and_no_other(moving):
    still = {key: SGDOptimizerFactory(lr=0.0) for key in OPTIMIZERS.values()}
    bcq = make_bcq(**{**still, OPTIMIZERS[moving]: SGDOptimizerFactory(lr=0.1)})
    _, before, after = step(bcq)
    assert {name for name in SOURCES if not torch.equal(before[name], after[name])} == {moving}


def gradients(loss, network):
    return torch.autograd.grad(loss, list(network.parameters()))


def test_no_gradient_but_of_its_own_loss_is_left_on_vae_and_critic():
    still = {key: SGDOptimizerFactory(lr=0.0) for key in OPTIMIZERS.values()}
    bcq, same = make_bcq(**still), make_bcq(**still)
    batch, noise = make_batch(), make_noise(bcq)
    with torch.no_grad():
        target = expected_target(same, batch, noise)
    vae, critic = same.policy.vae, same.policy.critic
    expected = {
        "vae": gradients(vae_loss(vae, batch.obs, batch.act, noise.vae_eps).loss, vae),
        "critic": gradients(mse_loss(critic(batch.obs, batch.act).squeeze(1), target), critic),
    }
    step(bcq, batch, noise)
    for name, grads in expected.items():
        for param, grad in zip(network(bcq, name).parameters(), grads, strict=True):
            assert grad.abs().sum() > 0
            if param.grad is not None:
                torch.testing.assert_close(param.grad, grad, rtol=1e-9, atol=1e-12)
    for name in TARGETS:
        assert all(p.grad is None for p in network(bcq, name).parameters())


def test_the_actor_takes_the_vaes_actions_without_their_gradient():
    bcq = make_bcq()
    decoded = []

    def decode(*args, decode=bcq.policy.vae.decode):
        decoded.append(decode(*args))
        return decoded[-1]

    bcq.policy.vae.decode = decode
    step(bcq)
    assert [len(act.shape) for act in decoded] == [2, 3, 2]  # VAE's loss, target, actor
    assert [act.requires_grad for act in decoded] == [True, False, False]


def test_the_actor_learns_from_the_critic_and_vae_already_stepped():
    bcq = make_bcq()
    batch, noise = make_batch(), make_noise(bcq)
    perturbation = make_policy().actor_perturbation  # the same initial weights
    statistics, _, _ = step(bcq, batch, noise)
    with torch.no_grad():
        act = bcq.policy.vae.decode(batch.obs, noise.actor.clamp(-0.5, 0.5))
        q = bcq.policy.critic(batch.obs, perturbation(batch.obs, act))
    assert statistics["actor_loss"] == pytest.approx(-q.mean().item(), rel=1e-12)


def test_the_actors_loss_asks_for_no_gradient_of_the_critic():
    bcq, asked = make_bcq(), []
    bcq.policy.critic.register_forward_pre_hook(
        lambda critic, _: asked.append({p.requires_grad for p in critic.parameters()})
    )
    step(bcq)
    assert asked == [{True}, {False}]  # its own loss, then the actor's
    assert all(p.requires_grad for p in bcq.policy.critic.parameters())


@pytest.mark.parametrize("tau", [0.005, 0.3, 1.0])
def test_targets_take_the_share_tau_of_their_stepped_sources(tau):
    bcq = make_bcq(tau=tau)
    _, before, after = step(bcq)
    for name in TARGETS:
        source = after[name.removesuffix("_target")]
        expected = tau * source + (1 - tau) * before[name]
        torch.testing.assert_close(after[name], expected, rtol=1e-12, atol=1e-15)
        assert not torch.equal(after[name], before[name])


def test_targets_begin_equal_to_their_sources_and_need_no_gradient():
    bcq = make_bcq()
    start = snapshot(bcq)
    for name in TARGETS:
        assert torch.equal(start[name], start[name.removesuffix("_target")])
        assert not any(p.requires_grad for p in network(bcq, name).parameters())


def expected_target(bcq, batch, noise):
    """Equation 13 by loops, with the VAE as it stands."""
    target, hyper = [], bcq.hyperparameters
    for i, obs in enumerate(batch.obs_next):
        values = []
        for latent in noise.target[i].clamp(-0.5, 0.5):
            act = bcq.actor_perturbation_target(obs, bcq.policy.vae.decode(obs, latent))
            q1, q2 = bcq.critic_target(obs, act), bcq.critic2_target(obs, act)
            values.append(hyper.lmbda * min(q1, q2) + (1 - hyper.lmbda) * max(q1, q2))
        bootstrap = hyper.gamma * (1 - batch.terminated[i]) * max(values)
        target.append(batch.rew[i] + bootstrap)
    return torch.cat(target)


@pytest.mark.parametrize(("lmbda", "gamma"), [(0.75, 0.99), (0.0, 0.5), (1.0, 0.0)])
def test_the_target_is_equation_13_row_by_row(lmbda, gamma):
    bcq = make_bcq(lmbda=lmbda, gamma=gamma, vae_optim=SGDOptimizerFactory(lr=0.0))
    with torch.no_grad():  # a target network that differs from its source
        for param in bcq.actor_perturbation_target.parameters():
            param.add_(0.5)
        batch, noise = make_batch(), make_noise(bcq)
        target = expected_target(bcq, batch, noise)
        q1 = bcq.policy.critic(batch.obs, batch.act).squeeze(1)
        q2 = bcq.critic2(batch.obs, batch.act).squeeze(1)
    statistics, _, _ = step(bcq, batch, noise)
    assert statistics["target_q_mean"] == pytest.approx(target.mean().item(), rel=1e-12)
    assert statistics["critic1_loss"] == pytest.approx(mse_loss(q1, target).item(), rel=1e-12)
    assert statistics["critic2_loss"] == pytest.approx(mse_loss(q2, target).item(), rel=1e-12)
    assert statistics["q1_mean"] == pytest.approx(q1.mean().item(), rel=1e-12)
    assert statistics["q2_mean"] == pytest.approx(q2.mean().item(), rel=1e-12)


def test_the_target_perturbs_with_the_target_network():
    plain, changed, source_changed = make_bcq(), make_bcq(), make_bcq()
    with torch.no_grad():
        for param in changed.actor_perturbation_target.parameters():
            param.add_(1.0)
        for param in source_changed.policy.actor_perturbation.parameters():
            param.add_(1.0)
    means = [
        step(bcq, noise=make_noise(plain))[0]["target_q_mean"]
        for bcq in (plain, changed, source_changed)
    ]
    assert means[0] != means[1]
    assert means[0] == means[2]


@pytest.mark.parametrize("critic2", ["None", "given"])
def test_a_larger_lmbda_lowers_the_target(critic2):
    torch.manual_seed(5)
    given = None if critic2 == "None" else Critic(**SIZES).double()
    means = []
    for lmbda in (0.0, 0.75, 1.0):
        torch.manual_seed(7)
        bcq = make_bcq(lmbda=lmbda, critic2=given)
        means.append(step(bcq)[0]["target_q_mean"])
    assert means[0] > means[1] > means[2]  # weight moves from the maximum to the minimum


def test_the_first_critic_is_refused_as_the_second():
    policy = make_policy()
    with pytest.raises(ValueError, match="critic2 is the first critic.*None"):
        make_bcq(policy, critic2=policy.critic)


def test_a_missing_critic2_is_initialized_again_in_every_layer():
    bcq = make_bcq()
    for one, other in zip(bcq.policy.critic.parameters(), bcq.critic2.parameters(), strict=True):
        assert one.shape == other.shape
        assert not torch.equal(one, other)


def test_two_missing_critics_of_one_seed_are_the_same():
    assert torch.equal(snapshot(make_bcq())["critic2"], snapshot(make_bcq())["critic2"])


def test_a_critic_that_cannot_be_redrawn_is_refused():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.full((5, 1), 0.1, dtype=torch.float64))

        def forward(self, obs, act):
            return torch.cat([obs, act], -1) @ self.weight

    with pytest.raises(ValueError, match="reset_parameters.*pass critic2"):
        make_bcq(make_policy(critic=Bare()))
    step(make_bcq(make_policy(critic=Bare()), critic2=Bare()))


def test_a_termination_ends_the_return():
    batch = make_batch()
    batch.terminated = torch.ones_like(batch.rew)
    means = [step(make_bcq(gamma=g), batch)[0]["target_q_mean"] for g in (0.0, 0.99)]
    assert means == pytest.approx([batch.rew.mean().item()] * 2, rel=1e-12)


def test_a_truncation_does_not_end_the_return():
    batch = make_batch()
    batch.terminated = torch.zeros_like(batch.rew)
    running = step(make_bcq(), batch)
    batch.truncated = torch.ones_like(batch.rew)
    batch.done = torch.ones_like(batch.rew)
    truncated = step(make_bcq(), batch)
    assert truncated[0] == running[0]
    assert truncated[0]["target_q_mean"] != pytest.approx(batch.rew.mean().item(), abs=1e-3)


def test_the_order_of_rows_does_not_matter():
    straight, shuffled = make_bcq(), make_bcq()
    batch, noise = make_batch(), make_noise(straight)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    first = step(straight, batch, noise)
    second = step(
        shuffled,
        Batch(**{name: getattr(batch, name)[order] for name in batch.keys()}),  # noqa: SIM118
        Noise(*(x[order] for x in noise)),
    )
    assert second[0] == pytest.approx(first[0], rel=1e-12)
    for name, value in first[2].items():
        torch.testing.assert_close(second[2][name], value, rtol=1e-11, atol=1e-14)


def test_statistics_are_those_of_the_losses_and_the_noise():
    bcq = make_bcq(lr=0.0)
    batch, noise = make_batch(), make_noise(bcq)
    statistics, _, _ = step(bcq, batch, noise)
    assert set(statistics) == set(BCQ.statistics())
    with torch.no_grad():
        recon, mean, std = bcq.policy.vae(batch.obs, batch.act, noise.vae_eps)
        act = bcq.policy.vae.decode(batch.obs, noise.actor.clamp(-0.5, 0.5))
        moved = bcq.policy.actor_perturbation(batch.obs, act)
        normal = torch.distributions.Normal
        kl = torch.distributions.kl_divergence(normal(mean, std), normal(0.0, 1.0)).mean()
    outside = (noise.target.abs() > 0.5).double().mean()
    assert statistics["recon_loss"] == pytest.approx(mse_loss(recon, batch.act).item())
    assert statistics["kl_loss"] == pytest.approx(kl.item())
    assert statistics["vae_loss"] == pytest.approx(
        statistics["recon_loss"] + 0.5 * statistics["kl_loss"]
    )
    assert statistics["perturbation_abs_mean"] == pytest.approx((moved - act).abs().mean().item())
    assert statistics["latent_clip_fraction"] == pytest.approx(outside.item())


def test_a_perturbation_at_its_limit_is_watched():
    def excesses(scale, phi=0.3):
        moves = Perturbation(**SIZES, **BOUNDS, phi=phi).double()
        with torch.no_grad():
            for param in moves.parameters():
                param.mul_(scale)
        bcq = make_bcq(make_policy(actor_perturbation=moves), lr=0.0)
        statistics, _, _ = step(bcq)
        watches = [watch for watch in bcq.watches if watch.kind == "perturbation at phi"]
        return [list(watch.out_of_bounds(statistics)) for watch in watches]

    (within,), (beyond,) = excesses(1), excesses(1000)
    assert not within and beyond
    assert excesses(1, phi=0.0) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gamma", -0.1),
        ("gamma", 1.1),
        ("tau", 0.0),
        ("tau", 1.1),
        ("lmbda", -0.1),
        ("lmbda", 1.5),
        ("num_sampled_action", 0),
    ],
)
def test_a_number_out_of_its_range_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is .*, not {value}"):
        make_bcq(**{name: value})
