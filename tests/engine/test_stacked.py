"""K stacked runs are the K runs, whatever they differ in."""

import pytest
import torch

from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.bc import BC
from bcq_exp.algorithm.bcq import Noise
from bcq_exp.algorithm.networks import VAE, Critic, Perturbation
from bcq_exp.algorithm.optim import AdamOptimizerFactory, CosineSchedule, optimizer_for
from bcq_exp.algorithm.stacking import StackedNetwork, per_run
from bcq_exp.data.datasets import load_pendulum
from bcq_exp.engine.stacked import StackedRuns
from bcq_exp.errors import UserError
from tests.algorithm.loops import assert_same_parameters
from tests.algorithm.small import (
    ACT_DIM,
    BOUNDS,
    OBS_DIM,
    SIZES,
    make_batch,
    make_bcq,
    make_noise,
    make_policy,
)
from tests.algorithm.stacking import assert_a_stack_is_its_runs
from tests.algorithm.test_tianshou import TianshouFactory
from tests.commands import ANY_ALGORITHM, compose, engine_of
from tests.same import assert_same_state

SIZE = 6


def make_run(k, **adam):
    """A run of its own seed, lmbda, tau, gamma, phi, latent clip, KL weight and learning rate."""
    torch.manual_seed(k)
    policy = make_policy(
        seed=k,
        actor_perturbation=Perturbation(**SIZES, **BOUNDS, phi=0.1 * k).double(),
        vae=VAE(**SIZES, **BOUNDS, latent_clip=0.5 + k, kl_weight=0.1 + k).double(),
    )
    optim = AdamOptimizerFactory(lr=1e-3 * (1 + k // 2), **adam)
    return make_bcq(
        policy,
        actor_perturbation_optim=optim,
        critic_optim=optim,
        vae_optim=optim,
        gamma=0.9 + 0.02 * k,
        lmbda=0.25 * k,
        tau=0.01 * (1 + k),
    )


def test_a_loss_that_mixes_runs_is_refused():
    stack = StackedRuns([make_run(k) for k in range(3)])
    batch = Batch(**{n: torch.stack([x] * 3) for n, x in vars(make_batch(SIZE, seed=0)).items()})
    noise = Noise(*(torch.stack([x] * 3) for x in make_noise(make_run(0), SIZE, seed=0)))
    stack.tensor_step(batch, noise)
    stack.after_steps(1)
    name, optimizer = next(iter(stack._optimizers.items()))
    network = getattr(stack._networks, name)
    loss = sum(x.square().sum() for x in network.parameters())
    with pytest.raises(UserError, match=r"the loss of 3 stacked runs must have the shape"):
        optimizer.apply(loss)
    with pytest.raises(UserError, match="called outside a @per_run function"):
        network(batch.obs, batch.act)


def step_both(stack, runs, step):
    """One step of the stack and of each run by itself; their statistics."""
    batches = [make_batch(SIZE, seed=100 * step + k) for k in range(len(runs))]
    noises = [make_noise(run, SIZE, seed=1000 * step + k) for k, run in enumerate(runs)]
    names = vars(batches[0])
    batch = Batch(**{n: torch.stack([getattr(b, n) for b in batches]) for n in names})
    stacked = stack.tensor_step(batch, Noise(*map(torch.stack, zip(*noises, strict=True))))
    stack.after_steps(1)
    alone = [run.gradient_step(b, n) for run, b, n in zip(runs, batches, noises, strict=True)]
    return stacked, alone


@pytest.mark.parametrize(
    "adam",
    [{}, {"max_grad_norm": 0.05}, {"schedule": CosineSchedule(10)}, {"weight_decay": 0.1}],
    ids=["plain", "clipped", "scheduled", "decayed"],
)
def test_a_stack_steps_as_its_runs_do_alone(adam):
    assert_a_stack_is_its_runs(lambda k: make_run(k, **adam), 4, steps=12)


def test_a_function_per_run_takes_what_the_function_of_one_run_takes():
    calls = []

    @per_run
    def function(critic, x, factor, power, offset=None, *, shared):
        calls.append(type(critic))
        assert offset is None and shared == 0.5
        return (nested(critic, x) * factor + shared) ** power

    @per_run
    def nested(critic, x):
        return critic(x[:, :OBS_DIM], x[:, OBS_DIM:]).sum()

    critics = [make_policy(seed=k).critic for k in range(2)]
    x = torch.randn(2, 4, OBS_DIM + ACT_DIM, dtype=torch.float64)
    factor = torch.tensor([1.0, 2.0], dtype=torch.float64)
    alone = [function(critics[k], x[k], factor[k], 2, shared=0.5) for k in range(2)]
    stacked = StackedNetwork(critics)
    together = function(stacked, x, factor=factor, power=2, shared=0.5)
    torch.testing.assert_close(together, torch.stack(alone))
    assert calls == [Critic] * 3


def test_runs_that_differ_in_what_a_stack_shares_are_refused():
    runs = [make_bcq(num_sampled_action=n) for n in (2, 3)]
    with pytest.raises(ValueError, match="stacked runs differ in num_sampled_action"):
        StackedRuns(runs)


class Fixed(VAE):
    """Its weight is no tensor."""

    def __init__(self, *, kl_weight, **options):
        super().__init__(**options)
        del self.kl_weight
        self.kl_weight = kl_weight


def test_networks_that_differ_in_a_number_that_is_no_tensor_are_refused():
    vaes = [Fixed(**SIZES, **BOUNDS, kl_weight=weight).double() for weight in (0.5, 0.5, 0.1)]
    StackedNetwork(vaes[:2])
    with pytest.raises(UserError, match="Fixed: stacked runs differ in kl_weight; make it a buff"):
        StackedNetwork(vaes)


def test_a_run_of_a_stack_can_be_saved_and_resumed_alone():
    in_stack = [make_run(k) for k in range(2)]
    stack = StackedRuns(in_stack)
    for step in range(3):
        step_both(stack, [make_run(k) for k in range(2)], step)
    freed = make_run(1)
    freed.load_state_dict(in_stack[1].state_dict())
    others = [make_run(0), freed]
    others[0].load_state_dict(in_stack[0].state_dict())
    for step in range(3, 6):
        stacked, alone = step_both(stack, others, step)
        torch.testing.assert_close(stacked["vae_loss"][1], alone[1]["vae_loss"])
    assert_same_parameters([in_stack[1]], [freed], rtol=1e-10)


def test_runs_of_one_learning_rate_step_as_one_and_others_by_themselves():
    stack = StackedRuns([make_run(k) for k in range(4)])
    step_both(stack, [make_run(k) for k in range(4)], 0)
    parts = stack._optimizers["vae"].parts
    assert [(part.start, part.stop) for part, _ in parts] == [(0, 2), (2, 4)]


def test_a_run_whose_weights_are_nan_does_not_affect_the_others():
    in_stack, alone = ([make_run(k) for k in range(3)] for _ in range(2))
    stack = StackedRuns(in_stack)
    step_both(stack, alone, 0)
    with torch.no_grad():
        for param in in_stack[1].policy.vae.parameters():
            param.fill_(float("nan"))
    stacked, values = step_both(stack, alone, 1)
    assert stacked["vae_loss"][1].isnan()
    for k in (0, 2):
        torch.testing.assert_close(stacked["vae_loss"][k], values[k]["vae_loss"])
        assert all(p.isfinite().all() for p in in_stack[k].parameters())


class WithTianshousOptimizer(BC):
    """Its optimizer is made by a factory of Tianshou's form, whatever the configuration has."""

    @classmethod
    def build(cls, parts):
        built = super().build(parts)
        built.optimizers["actor"] = optimizer_for(built.policy.actor, TianshouFactory(lr=1e-3))
        return built


def test_a_stack_with_optimizers_of_another_library_is_its_runs_alone():
    target = f"algo._target_={__name__}.{WithTianshousOptimizer.__name__}"
    options, data = ("algo=bc", target, *ANY_ALGORITHM), load_pendulum(num_steps=2000)
    cfgs = [compose(*options, f"seed={seed}") for seed in range(2)]
    how = {"engine": "eager", "stacks": True, "num_threads": 1}
    together = engine_of(cfgs, data, **how)
    metrics = together.advance(20)
    for k, cfg in enumerate(cfgs):
        alone = engine_of([cfg], data, **how)
        assert torch.equal(metrics[k], alone.advance(20)[0])
        assert_same_state(together.state_dict(k), alone.state_dict(0))
