"""Parts that come from Tianshou: networks, optimizer factories; its own, where it is installed."""

import os
import subprocess
from copy import deepcopy
from functools import wraps
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR, StepLR

from bcq_exp import Batch
from bcq_exp.algorithm.losses import vae_loss
from bcq_exp.algorithm.networks import VAE, broadcasting
from bcq_exp.algorithm.optim import AdamOptimizerFactory, optimizer_for
from tests.algorithm.minimizing import minimize
from tests.algorithm.small import (
    ACT_DIM,
    BOUNDS,
    LATENT_DIM,
    OBS_DIM,
    SIZES,
    SOURCES,
    TARGETS,
    make_batch,
    make_bcq,
    make_policy,
    snapshot,
)
from tests.bench.peers.venv import PYTHON

ROOT = Path(__file__).parents[2]


class TianshouVAE(nn.Module):
    """Ours behind the signatures of Tianshou 2.0's: no noise, and a latent that may be left out."""

    def __init__(self):
        super().__init__()
        self.ours = VAE(**SIZES, **BOUNDS).double()
        self.latent_dim = self.ours.latent_dim

    def forward(self, state, action):
        assert state.dim() == action.dim() == 2
        return self.ours(state, action)

    def decode(self, state, latent_z=None):
        assert state.dim() == 2
        return self.ours.decode(state, latent_z)


class TianshouFactory:
    """Makes torch's Adam and a schedule of its rate, as Tianshou 2.0's factories do."""

    def __init__(self, lr=0.1, scheduler=None, groups=1):
        self.lr, self.scheduler, self.groups = lr, scheduler, groups

    def create_instances(self, module):
        params = list(module.parameters())
        parts = [{"params": params[i :: self.groups]} for i in range(self.groups)]
        optimizer = torch.optim.Adam(parts, lr=self.lr)
        return optimizer, self.scheduler and self.scheduler(optimizer)


def test_a_vae_with_tianshous_signatures_acts_on_the_latents_of_the_policy():
    vae = TianshouVAE()
    policy = make_policy(vae=vae)
    same = make_policy(vae=vae.ours)
    obs = make_batch(5).obs
    acts = [
        p(Batch(obs=obs), generator=torch.Generator().manual_seed(3)).act for p in (policy, same)
    ]
    np.testing.assert_allclose(*acts, rtol=1e-12)


def test_a_vae_with_tianshous_signatures_trains_with_all_else():
    factory = TianshouFactory(lr=1e-3)
    bcq = make_bcq(
        make_policy(vae=TianshouVAE()),
        actor_perturbation_optim=factory,
        critic_optim=factory,
        vae_optim=factory,
    )
    before = snapshot(bcq)
    torch.manual_seed(0)
    stats = bcq.update_with_batch(make_batch())
    assert np.isfinite(list(stats.losses().values())).all()
    after = snapshot(bcq)
    assert all(not torch.equal(before[name], after[name]) for name in (*SOURCES, *TARGETS))


NOISE = {
    "none": (lambda obs, act: 0, 0),
    "required": (lambda obs, act, eps: len([eps]), 1),
    "optional": (lambda obs, act, eps=None: len([eps]) - (eps is None), 1),
    "any": (lambda obs, act, *more: len(more), 1),
    "by name only": (lambda obs, act, *, eps=None: int(eps is not None), 0),
}
LATENT = {
    "none": (lambda obs: 0, 0),
    "required": (lambda obs, latent: len([latent]), 1),
    "optional": (lambda obs, latent=None: len([latent]) - (latent is None), 1),
    "any": (lambda obs, *more: len(more), 1),
}


class Counting(nn.Module):
    """A VAE that counts how many random inputs it is passed."""

    def __init__(self, noise=NOISE["none"][0], latent=LATENT["none"][0], latent_dim=LATENT_DIM):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.latent_dim = latent_dim
        self.passed = []
        self.forward = self._counted(noise, lambda obs, act: (act * self.scale, obs, obs))
        self.decode = self._counted(latent, lambda obs: obs[:, :ACT_DIM] * self.scale)

    def _counted(self, count, result):
        @wraps(count)  # inspect.signature reads that of count
        def call(*inputs):
            self.passed.append(count(*inputs))
            return result(*inputs[: result.__code__.co_argcount])

        return call


@pytest.mark.parametrize("form", NOISE)
def test_noise_goes_to_a_vae_whose_signature_takes_it(form):
    noise, expected = NOISE[form]
    vae, batch = Counting(noise=noise), make_batch()
    vae_loss(broadcasting(vae), batch.obs, batch.act, torch.zeros(6, LATENT_DIM))
    assert vae.passed == [expected]


@pytest.mark.parametrize("form", LATENT)
def test_a_latent_goes_to_a_vae_whose_signature_takes_it(form):
    latent, expected = LATENT[form]
    vae = Counting(latent=latent)
    act = broadcasting(vae).decode(make_batch().obs.unsqueeze(1), torch.zeros(6, 3, LATENT_DIM))
    assert vae.passed == [expected]
    assert act.shape == (6, 3, ACT_DIM)


def test_without_a_latent_dim_a_vae_is_passed_nothing():
    vae, batch = Counting(noise=NOISE["any"][0], latent=LATENT["any"][0]), make_batch()
    broadcasting(vae)(batch.obs, batch.act, torch.zeros(6, 0))
    broadcasting(vae).decode(batch.obs, torch.zeros(6, 0))
    assert vae.passed == [0, 0]


def network():
    torch.manual_seed(0)
    return nn.Linear(OBS_DIM, ACT_DIM).double()


def loss(network):
    return network(make_batch().obs).square().mean()


SCHEDULERS = {
    "none": None,
    "exponential": lambda optimizer: ExponentialLR(optimizer, 0.8),
    "steps": lambda optimizer: StepLR(optimizer, 2, 0.5),
}


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_factory_of_tianshous_form_steps_and_resumes_as_torch_does(name, groups):
    factory = TianshouFactory(scheduler=SCHEDULERS[name], groups=groups)
    ours, theirs = network(), network()
    optimizer = optimizer_for(ours, factory)
    reference, scheduler = factory.create_instances(theirs)
    for step in range(6):
        if step == 3:  # as from a file
            state = deepcopy(optimizer.state_dict())
            optimizer = optimizer_for(ours, factory)
            optimizer.load_state_dict(state)
        assert optimizer.lr == reference.param_groups[0]["lr"]
        minimize(optimizer, loss(ours))
        reference.zero_grad()
        loss(theirs).backward()
        reference.step()
        if scheduler is not None:
            scheduler.step()
    assert torch.equal(ours.weight, theirs.weight)
    assert not torch.equal(ours.weight, network().weight)
    assert optimizer.num_steps == 6
    assert optimizer.has_schedule == (scheduler is not None)
    assert not optimizer.can_be_compiled


def test_a_factory_of_ours_makes_ours():
    optimizer = optimizer_for(network(), AdamOptimizerFactory(lr=0.5))
    assert (optimizer.lr, optimizer.can_be_compiled, optimizer.has_schedule) == (0.5, True, False)


@pytest.mark.parametrize("factory", [torch.optim.Adam, 1e-3, None])
def test_an_optimizer_that_is_no_factory_is_refused(factory):
    with pytest.raises(TypeError, match=r"given as an OptimizerFactory.*not as"):
        make_bcq(vae_optim=factory)


@pytest.mark.slow
def test_tianshous_own_parts_work():
    """Its VAE, Perturbation, ContinuousCritic, factories and ReplayBuffer, as they are."""
    if not PYTHON.exists():
        pytest.skip("no .venv-peers here: python -m tests.bench.peers.venv makes it")
    done = subprocess.run(
        [PYTHON, "-m", "tests.algorithm.tianshou_parts"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all of Tianshou's parts work\n")
