"""On a GPU: steps launched as CUDA graphs are the eager ones and the CPU's, stacked and resumed.

Skipped where there is none; tests/engine/test_device.py checks what can be checked without.
"""

import os

import pytest
import torch

from bcq_exp.engine import assembly
from bcq_exp.engine.stream import HostStream
from tests.commands import CONF, TINY, bcq_exp, compose, engine_of
from tests.engine.test_algorithms import ALGORITHMS, cfgs_of, data_of, small
from tests.engine.test_engine import OTHERS
from tests.same import assert_close_state, assert_same_state

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
ENV = {**os.environ, "PYTHONPATH": str(CONF.parent) + os.pathsep + os.environ.get("PYTHONPATH", "")}
CUDA, FP64 = "trainer.device=cuda", "trainer.precision=fp64"


def on_cpu(state):
    if isinstance(state, torch.Tensor):
        return state.cpu()
    if isinstance(state, dict):
        return {key: on_cpu(value) for key, value in state.items()}
    return [on_cpu(value) for value in state] if isinstance(state, list | tuple) else state


def assert_close(found, expected, rtol=1e-9):
    torch.testing.assert_close(found, expected, rtol=rtol, atol=1e-9, equal_nan=True)


def check_steps_are_the_eager_ones(algo, *options):
    cfg = compose(*small(algo), CUDA, FP64, *options)
    data = data_of(algo)
    launched, eager = engine_of([cfg], data), engine_of([cfg], data, engine="eager")
    assert_close(torch.cat([launched.advance(n) for n in (1, 2, 37)], 1), eager.advance(40))
    assert_close_state(launched.state_dict(0), eager.state_dict(0))


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_launched_steps_are_the_eager_ones(algo):
    check_steps_are_the_eager_ones(algo)


@pytest.mark.parametrize("options", OTHERS.values(), ids=OTHERS)
def test_steps_of_other_optimizers_are_the_eager_ones(options):
    check_steps_are_the_eager_ones("bcq", *options)


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_steps_on_a_gpu_are_the_cpus_given_its_random_numbers(algo, monkeypatch):
    cfg = compose(*small(algo), CUDA, FP64)
    host = compose(*small(algo), "trainer.device=cpu", "trainer.engine=eager", FP64)
    monkeypatch.setattr(assembly, "DeviceStream", lambda device, **needs: HostStream(**needs))
    gpu, cpu = engine_of([cfg], data_of(algo)), engine_of([host], data_of(algo))
    assert_close(gpu.advance(40), cpu.advance(40), rtol=1e-8)
    expected = dict(cpu.algorithm(0).named_parameters())
    for name, value in gpu.algorithm(0).named_parameters():
        assert_close(value.cpu(), expected[name], rtol=1e-8)


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_a_stack_of_different_numbers_is_its_runs_alone(algo):
    cfgs = cfgs_of(algo, CUDA, FP64)
    metrics = engine_of(cfgs, data_of(algo)).advance(40)
    for k, cfg in enumerate(cfgs):
        alone = engine_of([cfg], data_of(algo)).advance(40)[0]
        assert_close(metrics[k], alone, rtol=1e-8)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("num_runs", [1, 2])
def test_a_loaded_engine_resumes_bitwise(precision, num_runs):
    cfgs = cfgs_of("bcq", CUDA, f"trainer.precision={precision}")[:num_runs]
    straight, first, second = (engine_of(cfgs, data_of("bcq")) for _ in range(3))
    expected = straight.advance(75)[:, 40:]
    first.advance(40)
    for k in range(num_runs):
        second.load_state_dict(k, first.state_dict(k))
    assert torch.equal(second.advance(35), expected)
    for k in range(num_runs):
        assert_same_state(second.state_dict(k), straight.state_dict(k))


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_a_run_of_a_gpu_resumes_on_the_cpu(algo):
    cfg = compose(*small(algo), CUDA, FP64)
    gpu = engine_of([cfg], data_of(algo))
    gpu.advance(32)
    host = compose(*small(algo), "trainer.device=cpu", "trainer.engine=eager", FP64)
    cpu = engine_of([host], data_of(algo))
    cpu.load_state_dict(0, on_cpu(gpu.state_dict(0)))
    cpu.advance(3)
    assert cpu.step == 35


def test_a_run_and_a_sweep_by_the_command_line(tmp_path):
    done = bcq_exp("train", *TINY, CUDA, "name=one", cwd=tmp_path, env=ENV)
    assert done.returncode == 0, done.stderr
    assert " on cuda" in done.stderr + done.stdout
    done = bcq_exp("train", *TINY, CUDA, "name=one", "trainer.num_steps=90", cwd=tmp_path, env=ENV)
    assert done.returncode == 0, done.stderr
    sweep = ("-m", *TINY, CUDA, "name=sweep", "seed=0,1", "algo.lmbda=0.5,1.0")
    done = bcq_exp("train", *sweep, cwd=tmp_path, env=ENV)
    assert done.returncode == 0, done.stderr
    for command in (
        ("evaluate", "multirun/one", "device=cuda"),
        ("select", "multirun/sweep", "num_steps=200"),
    ):
        done = bcq_exp(*command, cwd=tmp_path, env=ENV)
        assert done.returncode == 0, (command, done.stderr)
