"""What a GPU would run never makes it wait for the host: checked without one, on any machine."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from bcq_exp.algorithm.bc import BC
from bcq_exp.algorithm.optim import AdamOptimizerFactory, RMSpropOptimizerFactory
from bcq_exp.config.overrides import changed
from bcq_exp.data.datasets import load_pendulum
from bcq_exp.engine.executors import AT_ONCE
from bcq_exp.engine.stream import BLOCK_STEPS
from tests.algorithm.minimizing import minimize
from tests.commands import compose
from tests.engine.device import (
    DEVICE,
    HostTouched,
    Launched,
    device_engine,
    no_host,
    pretended_device,
)
from tests.engine.test_algorithms import ALGORITHMS, NUMBERS, SMALL, choice, data_of

BOUND = {"schedule": "cosine", "max_grad_norm": 0.1}  # of each optimizer


@pytest.fixture(scope="module")
def data():
    return load_pendulum(num_steps=2000)


@pytest.fixture(autouse=True)
def on_device():
    with pretended_device():
        yield


def runs(algo, num_runs, precision, *, bound):
    """Configurations of one algorithm that differ in whatever runs of a stack may differ in."""
    cfg = compose(*SMALL, f"algo={choice(algo)}", f"trainer.precision={precision}")
    for name in cfg if bound else ():
        if name.endswith("_optim"):
            cfg = changed(cfg, {name: BOUND})
    own = [key for key in NUMBERS if OmegaConf.select(cfg, key) is not None]
    cfgs = []
    for k in range(num_runs):
        cfgs.append(changed(cfg, {"seed": k}))
        for key in own:
            OmegaConf.update(cfgs[-1], key, NUMBERS[key][k])
    return cfgs


def places(tensors):
    return [(x.untyped_storage()._cdata, x.storage_offset(), x.shape) for x in tensors]


def check_no_host(cfgs, data, num_steps):
    """Launched steps, in which nothing crosses."""
    engine = device_engine(cfgs, data)
    engine.take_steps(len(engine.algorithm(0).steps) + 1)
    before = places(engine._learner.state_tensors())
    metrics = engine.take_steps(num_steps)
    of_runs = () if len(cfgs) == 1 else (len(cfgs),)
    assert metrics.shape == (num_steps, *of_runs, len(engine.statistics))
    assert metrics.device == DEVICE
    assert places(engine._learner.state_tensors()) == before  # a CUDA graph goes by addresses
    assert Launched.launches


MATRIX = [  # all at once for every commit
    pytest.param(3, "bf16", True, id="stacked-bf16-bound"),
    pytest.param(1, "bf16", False, id="alone-bf16", marks=pytest.mark.slow),
    pytest.param(1, "fp32", True, id="alone-fp32-bound", marks=pytest.mark.slow),
    pytest.param(3, "fp32", False, id="stacked-fp32", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("num_runs", "precision", "bound"), MATRIX)
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_launched_steps_run_without_the_host(algo, num_runs, precision, bound):
    check_no_host(runs(algo, num_runs, precision, bound=bound), data_of(algo), 3)


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop", "sgd"])
@pytest.mark.parametrize("num_runs", [1, 2])
def test_every_optimizer_steps_without_the_host_and_many_steps_a_launch(optimizer, num_runs, data):
    cfg = compose(*SMALL, "algo=vae_bc", f"optimizer@vae_optim={optimizer}")
    cfgs = [changed(cfg, {"seed": k}) for k in range(num_runs)]
    check_no_host(cfgs, data, BLOCK_STEPS + 3)
    assert sum(Launched.launches) == 1 + BLOCK_STEPS + 3
    assert Launched.launches.count(AT_ONCE) >= BLOCK_STEPS // AT_ONCE - 1


@pytest.mark.parametrize("factory", [AdamOptimizerFactory, RMSpropOptimizerFactory])
def test_an_optimizer_from_the_hosts_checkpoint_steps_on_the_device(factory):
    def made(device):
        param = torch.nn.Parameter(torch.ones(2, device=device))
        return param, factory(lr=0.1).create([param])

    param, on_host = made("cpu")
    minimize(on_host, param.sum())
    param, on_device = made(DEVICE)
    on_device.load_state_dict(on_host.state_dict())
    assert on_device.num_steps == 1
    assert {x.device for x in on_device.state_tensors()} == {DEVICE}
    with no_host():
        minimize(on_device, param.sum())


def looks(metrics, batch):
    metrics["actor_loss"].item()


def branches(metrics, batch):
    if metrics["actor_loss"].sum() > 0:
        metrics["actor_loss"].neg_()


def lists(metrics, batch):
    batch.rew.tolist()


def copies_to_host(metrics, batch):
    batch.rew.to("cpu")


def selects(metrics, batch):
    batch.obs[batch.rew > 0].sum()


def counts(metrics, batch):
    batch.rew.nonzero()


def brings_a_tensor(metrics, batch):
    batch.rew.add_(torch.ones(1))


def brings_a_number(metrics, batch):
    batch.rew.mul_(torch.tensor(2.0))


def brings_numbers(metrics, batch):
    batch.rew.new_tensor([1.0, 2.0])


def brings_an_array(metrics, batch):
    batch.rew.add_(torch.from_numpy(np.ones(1, np.float32)))


MUTANTS = (
    looks, branches, lists, copies_to_host, selects, counts,
    brings_a_tensor, brings_a_number, brings_numbers, brings_an_array,
)  # fmt: skip


@pytest.fixture(scope="module")
def cloning():
    return compose(*SMALL, "algo=bc")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_step_that_needs_the_host_is_noticed(mutant, cloning, data, monkeypatch):
    (step,) = BC.steps

    def mutated(networks, optimizers, hyperparameters, batch, noise):
        metrics = step(networks, optimizers, hyperparameters, batch, noise)
        mutant(metrics, batch)
        return metrics

    engine = device_engine([cloning], data)
    engine.take_steps(2)
    with no_host():
        engine.take_steps(1)
    monkeypatch.setattr(BC, "steps", (mutated,))
    with pytest.raises(HostTouched), no_host():
        engine.take_steps(1)
