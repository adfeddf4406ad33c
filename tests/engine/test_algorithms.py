"""Every algorithm is compiled, stacked and resumed alike: the engines know none of them."""

import pytest
import torch

from bcq_exp.data.datasets import load_pendulum
from tests.commands import CONF, compose, engine_of
from tests.same import assert_close_state, assert_same_state

ALGORITHMS = sorted(path.stem for path in (CONF / "algo").glob("*.yaml"))
SOME = [  # the others' steps differ from these in what the tests of each file look at
    algo if algo in ("bc", "bcq") else pytest.param(algo, marks=pytest.mark.slow)
    for algo in ALGORITHMS
]
SMALL = ("dataset.num_steps=2000", "trainer.batch_size=16")
# what the runs of a stack differ in, where the algorithm has it
NUMBERS = {
    "algo.gamma": (0.9, 0.95, 0.99),
    "algo.tau": (0.005, 0.02, 0.1),
    "algo.lmbda": (0.0, 0.5, 1.0),
    "algo.alpha": (0.5, 1.0, 2.5),
    "vae.kl_weight": (0.1, 0.5, 1.0),
    "critic_optim.lr": (1e-3, 1e-3, 3e-3),
}


def cfgs_of(algo, *overrides):
    def has(key):
        node, _, name = key.partition(".")
        cfg = compose(f"algo={algo}")
        return node in cfg and name in cfg[node]

    own = [key for key in NUMBERS if has(key)]
    return [
        compose(*SMALL, f"algo={algo}", f"seed={k}", *overrides,
                *(f"{key}={NUMBERS[key][k]}" for key in own))
        for k in range(3)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def data():
    return load_pendulum(num_steps=2000)


@pytest.mark.parametrize("algo", SOME)
def test_compiled_steps_are_the_eager_ones(algo, data):
    cfg = compose(*SMALL, f"algo={algo}", "trainer.precision=fp64", "trainer.engine=xla")
    compiled, eager = engine_of([cfg], data), engine_of([cfg], data, engine="eager")
    metrics = torch.cat([compiled.advance(n) for n in (1, 2, 37)], 1)
    expected = eager.advance(40)
    torch.testing.assert_close(metrics, expected, rtol=1e-9, atol=1e-9, equal_nan=True)
    assert_close_state(compiled.state_dict(0), eager.state_dict(0))


@pytest.mark.parametrize("algo", SOME)
def test_a_run_in_a_compiled_sweep_is_bitwise_the_run_alone(algo, data):
    cfgs = cfgs_of(algo, "trainer.engine=xla")
    together = engine_of(cfgs, data, num_threads=2)
    metrics = together.advance(40)
    for k, cfg in enumerate(cfgs):
        alone = engine_of([cfg], data)
        torch.testing.assert_close(metrics[k], alone.advance(40)[0], rtol=0, atol=0, equal_nan=True)
        assert_same_state(together.state_dict(k), alone.state_dict(0))


@pytest.mark.parametrize("algo", SOME)
def test_a_cohort_of_different_numbers_is_its_runs_alone(algo, data):
    cfgs = cfgs_of(algo, "trainer.precision=fp64", "trainer.engine=eager")
    together = engine_of(cfgs, data, num_threads=1)
    told = together.advance(60)
    for k, cfg in enumerate(cfgs):
        alone = engine_of([cfg], data)
        expected = alone.advance(60)[0]
        torch.testing.assert_close(told[k], expected, rtol=1e-8, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("engine", ["eager", "xla"])
@pytest.mark.parametrize("algo", SOME)
def test_a_loaded_engine_resumes_bitwise(algo, engine, data):
    cfg = compose(*SMALL, f"algo={algo}", f"trainer.engine={engine}")
    straight, first, second = (engine_of([cfg], data) for _ in range(3))
    expected = straight.advance(40)[:, 25:]
    first.advance(25)
    second.load_state_dict(0, first.state_dict(0))
    told = second.advance(15)
    torch.testing.assert_close(told, expected, rtol=0, atol=0, equal_nan=True)
    assert_same_state(second.state_dict(0), straight.state_dict(0))
