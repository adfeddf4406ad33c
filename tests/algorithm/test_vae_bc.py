"""VAE-BC: its step is BCQ's first, by loops; its policy samples the model."""

import copy

import numpy as np
import pytest
import torch

from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.networks import VAE
from bcq_exp.algorithm.optim import AdamOptimizerFactory
from bcq_exp.algorithm.vae_bc import VAEBC, VAEPolicy
from tests.algorithm.loops import assert_same_parameters, descend
from tests.algorithm.small import BOUNDS, SIZES, SPACE, make_batch
from tests.algorithm.stacking import assert_a_stack_is_its_runs


def make_vae_bc(seed=0, lr=1e-2, **vae):
    torch.manual_seed(seed)
    policy = VAEPolicy(vae=VAE(**SIZES, **BOUNDS, **vae).double(), action_space=SPACE)
    return VAEBC(policy=policy, vae_optim=AdamOptimizerFactory(lr=lr))


def test_steps_are_those_of_the_equation_by_loops():
    vae_bc = make_vae_bc(kl_weight=0.3)
    vae = copy.deepcopy(vae_bc.policy.vae)
    adam = torch.optim.Adam(vae.parameters(), lr=1e-2)
    for step in range(5):
        batch = make_batch(seed=step)
        noise = vae_bc.draw_noise(6, torch.Generator().manual_seed(step))
        metrics = vae_bc.gradient_step(batch, noise)
        errors, divergences = [], []
        for obs, act, eps in zip(batch.obs, batch.act, noise.vae_eps, strict=True):
            mean, log_std = vae.encoder(torch.cat([obs, act])).chunk(2)
            std = log_std.clamp(-4, 15).exp()
            errors += list((vae.decode(obs, mean + std * eps) - act) ** 2)
            divergences += list(-std.log() + (std**2 + mean**2 - 1) / 2)
        loss = sum(errors) / len(errors) + 0.3 * sum(divergences) / len(divergences)
        assert metrics["vae_loss"].item() == pytest.approx(descend(adam, loss), rel=1e-10)
    assert_same_parameters([vae_bc.policy.vae], [vae])


def test_the_weight_of_the_kl_term_rises_linearly_from_0():
    vae_bc = make_vae_bc(kl_weight=0.3, kl_warmup=4)
    weights = []
    for step in range(6):
        noise = vae_bc.draw_noise(6, torch.Generator().manual_seed(step))
        metrics = vae_bc.gradient_step(make_batch(seed=step), noise)
        weights.append(float((metrics["vae_loss"] - metrics["recon_loss"]) / metrics["kl_loss"]))
    assert weights == pytest.approx([0, 0.075, 0.15, 0.225, 0.3, 0.3])
    again = make_vae_bc(kl_weight=0.3, kl_warmup=4)
    again.load_state_dict(vae_bc.state_dict())
    assert again.policy.vae.steps.count == 6


def test_without_a_warm_up_nothing_is_counted_or_saved():
    assert not any("steps" in name for name in make_vae_bc().state_dict())


def test_a_stack_steps_as_its_runs_do_alone():
    def make(k):
        return make_vae_bc(k, lr=1e-3 * (1 + k), kl_weight=0.1 * (1 + k))

    assert_a_stack_is_its_runs(make, 3)
    assert_a_stack_is_its_runs(lambda k: make_vae_bc(k, kl_weight=0.1 * (1 + k), kl_warmup=5), 3)


def test_the_policy_samples_the_model_with_clipped_latents():
    policy = make_vae_bc(latent_clip=0.2).policy
    obs = np.random.default_rng(0).normal(size=(50, 3))
    act = policy(Batch(obs=obs), generator=torch.Generator().manual_seed(1)).act
    latent = torch.randn((50, 4), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        expected = policy.vae.decode(torch.as_tensor(obs), latent.clamp(-0.2, 0.2))
    np.testing.assert_allclose(act, expected.numpy())
    again = policy(Batch(obs=obs), generator=torch.Generator().manual_seed(2)).act
    assert not np.array_equal(act, again)
