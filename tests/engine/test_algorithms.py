"""Every algorithm is compiled, stacked and resumed alike: the engines know none of them."""

from contextlib import contextmanager
from dataclasses import replace

import jax
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from bcq_exp.data.datasets import load_pendulum
from bcq_exp.training.algorithms import LEARN
from tests.commands import compose, engine_of
from tests.same import assert_close_state, assert_same_state

ALGORITHMS = [*LEARN[Box], *(f"discrete {algo}" for algo in LEARN[Discrete]), "warm vae_bc"]
SOME = [  # the others' steps differ from these in what the tests of each file look at
    algo if algo in ("bc", "bcq", "warm vae_bc") else pytest.param(algo, marks=pytest.mark.slow)
    for algo in ALGORITHMS
]
SMALL = ("dataset.num_steps=2000", "trainer.batch_size=16")
FEW_SAMPLES = ("algo.num_sampled_action=3",)
OWN = {
    "bcq": FEW_SAMPLES,  # its programs are those of other tests
    "cql": FEW_SAMPLES,
    "discrete discrete_bcq": ("algo.target_update_freq=3",),
    "warm vae_bc": ("vae.kl_warmup=30",),
}
# what the runs of a stack differ in, where the algorithm has it
NUMBERS = {
    "algo.gamma": (0.9, 0.99, 0.95),
    "algo.tau": (0.005, 0.1, 0.02),
    "algo.lmbda": (0.0, 1.0, 0.5),
    "algo.alpha": (0.5, 2.5, 1.0),
    "algo.threshold": (0.3, 0.6, 0.0),
    "algo.logits_penalty": (0.01, 0.1, 0.0),
    "algo.expectile": (0.5, 0.9, 0.7),
    "algo.temperature": (1.0, 3.0, 2.0),
    "algo.cql_alpha": (0.5, 5.0, 1.0),
    "algo.deterministic_backup": (True, False, True),
    "vae.kl_weight": (0.1, 1.0, 0.5),
    "critic_optim.lr": (1e-3, 3e-3, 1e-3),
    "value_optim.lr": (1e-3, 3e-3, 1e-3),
}


def small(algo):
    return (*SMALL, f"algo={choice(algo)}", *OWN.get(algo, ()))


def choice(algo):
    return algo.removeprefix("discrete ").removeprefix("warm ")


def cfgs_of(algo, *overrides):
    def has(key):
        node, _, name = key.partition(".")
        cfg = compose(f"algo={choice(algo)}")
        return node in cfg and name in cfg[node]

    own = [key for key in NUMBERS if has(key)]
    return [
        compose(*small(algo), f"seed={k}", *overrides,
                *(f"{key}={NUMBERS[key][k]}" for key in own))
        for k in range(2)
    ]  # fmt: skip


@pytest.fixture
def data(algo):
    return data_of(algo)


def data_of(algo):
    data = load_pendulum(num_steps=2000)
    if not algo.startswith("discrete "):
        return data
    act = np.digitize(data.transitions.act, [-1, 0.5])
    transitions = data.transitions.replace(act=act)
    return replace(data, transitions=transitions, action_space=Discrete(3, start=1))


@pytest.mark.parametrize("algo", [algo for algo in SOME if algo != "bcq"])  # see test_engine.py
def test_compiled_steps_are_the_eager_ones(algo, data):
    cfg = compose(*small(algo), "trainer.precision=fp64", "trainer.engine=xla")
    compiled, eager = engine_of([cfg], data), engine_of([cfg], data, engine="eager")
    metrics = torch.cat([compiled.advance(n) for n in (1, 2, 37)], 1)
    expected = eager.advance(40)
    torch.testing.assert_close(metrics, expected, rtol=1e-9, atol=1e-9, equal_nan=True)
    assert_close_state(compiled.state_dict(0), eager.state_dict(0))


@contextmanager
def not_in_the_cache():
    """A list, with an entry for each program that is compiled in here."""
    found = []

    def listener(event, **_):
        if event == "/jax/compilation_cache/cache_misses":
            found.append(event)

    jax.monitoring.register_event_listener(listener)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_listener(listener)


@pytest.mark.parametrize("algo", SOME)
def test_a_run_in_a_compiled_sweep_is_bitwise_the_run_alone(algo, data):
    """By the same program, although seeds and hyperparameters differ."""
    cfgs = cfgs_of(algo, "trainer.engine=xla")
    together = engine_of(cfgs, data, num_threads=2)
    metrics = together.advance(40)
    for k, cfg in enumerate(cfgs):
        with not_in_the_cache() as compiled:
            alone = engine_of([cfg], data)
            found = alone.advance(40)[0]
        assert compiled == []
        torch.testing.assert_close(metrics[k], found, rtol=0, atol=0, equal_nan=True)
        assert_same_state(together.state_dict(k), alone.state_dict(0))


@pytest.mark.parametrize("algo", SOME)
def test_a_cohort_of_different_numbers_is_its_runs_alone(algo, data):
    cfgs = cfgs_of(algo, "trainer.precision=fp64", "trainer.engine=eager")
    together = engine_of(cfgs, data, num_threads=1)
    metrics = together.advance(40)
    for k, cfg in enumerate(cfgs):
        alone = engine_of([cfg], data)
        expected = alone.advance(40)[0]
        torch.testing.assert_close(metrics[k], expected, rtol=1e-8, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("engine", ["eager", "xla"])
@pytest.mark.parametrize("algo", SOME)
def test_a_loaded_engine_resumes_bitwise(algo, engine, data):
    cfg = compose(*small(algo), f"trainer.engine={engine}")
    straight, first, second = (engine_of([cfg], data) for _ in range(3))
    expected = straight.advance(40)[:, 25:]
    first.advance(25)
    second.load_state_dict(0, first.state_dict(0))
    metrics = second.advance(15)
    torch.testing.assert_close(metrics, expected, rtol=0, atol=0, equal_nan=True)
    assert_same_state(second.state_dict(0), straight.state_dict(0))
