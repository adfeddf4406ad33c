"""The engine takes exactly the steps that BCQ takes by itself on the stream's numbers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.bcq import BCQ, Noise
from bcq_exp.data import transitions
from bcq_exp.data.datasets import load_pendulum
from bcq_exp.engine.assembly import build_stream
from bcq_exp.engine.buffers import TransitionTable
from bcq_exp.engine.engine import CohortEngine
from bcq_exp.engine.executors import EagerExecutor
from bcq_exp.engine.stream import BLOCK_STEPS, DeviceStream
from bcq_exp.training import build
from tests.commands import TINY, algorithm_of, compose, engine_of
from tests.same import assert_close_state, assert_same_state

OTHERS = {
    "others": ("optimizer@actor_optim=rmsprop", "optimizer@critic_optim=sgd"),
    "schedules": ("optimizer@vae_optim=adamw", "vae_optim.schedule=cosine"),
    "clipped": ("critic_optim.max_grad_norm=0.1", "actor_optim.max_grad_norm=0.001"),
}
OPTIONS = {"adam": (), **OTHERS}
TOGETHER = [  # compiling takes seconds; Adam's compiled steps are the authors' in test_golden.py
    pytest.param((), id="adam", marks=pytest.mark.slow),
    pytest.param(sum(OTHERS.values(), ()), id="all others"),
]


def by_hand(cfg, num_steps):
    """The algorithm after its steps on the stream's numbers, and each step's statistics."""
    data = load_pendulum(num_steps=2000)
    bcq = algorithm_of(cfg, data.observation_space, data.action_space)
    dtype = next(bcq.policy.critic.parameters()).dtype
    stream = build_stream(bcq, cfg.seed, len(data.transitions), cfg.trainer, torch.device("cpu"))
    names = ("obs", "act", "rew", "terminated", "obs_next")
    statistics = []
    for step in range(num_steps):
        index, row = divmod(step, BLOCK_STEPS)
        block = stream.block(index)
        rows = data.transitions[block.indices[row].numpy()]
        batch = {name: torch.as_tensor(getattr(rows, name).copy()).to(dtype) for name in names}
        noise = Noise(*(x[row].to(dtype) for x in block.noise))
        values = bcq.gradient_step(Batch(**batch), noise)
        statistics.append([values[name].item() for name in BCQ.statistics()])
    return bcq, torch.tensor(statistics, dtype=torch.float64)


@pytest.mark.parametrize("options", TOGETHER)
def test_compiled_steps_are_those_of_the_algorithm_by_itself_in_any_portions(options):
    cfg = compose(*TINY, "trainer.precision=fp64", "trainer.engine=xla", *options)
    engine = engine_of([cfg], load_pendulum(num_steps=2000))
    bcq, expected = by_hand(cfg, 70)
    metrics = torch.cat([engine.advance(n) for n in (1, 2, 37, 30)], 1)  # across blocks
    assert engine.step == 70
    torch.testing.assert_close(metrics[0], expected, rtol=1e-8, atol=1e-9)
    assert_close_state(engine.state_dict(0)["algorithm"], bcq.state_dict(), rtol=1e-8)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_steps_are_those_of_the_algorithm_by_itself(options):
    cfg = compose(*TINY, "trainer.precision=fp64", "trainer.engine=eager", *options)
    engine = engine_of([cfg], load_pendulum(num_steps=2000))
    bcq, expected = by_hand(cfg, 40)
    torch.testing.assert_close(engine.advance(40)[0], expected, rtol=1e-8, atol=1e-10)
    state = engine.state_dict(0)["algorithm"]
    for key, value in bcq.named_parameters():
        torch.testing.assert_close(state[key], value.detach(), rtol=1e-8, atol=1e-10)


def test_the_policy_is_the_one_that_is_trained():
    engine = engine_of([compose(*TINY, "trainer.engine=xla")], load_pendulum(num_steps=2000))
    before = {k: v.clone() for k, v in engine.algorithm(0).policy.state_dict().items()}
    engine.advance(3)
    after = engine.algorithm(0).policy.state_dict()
    trained = engine.state_dict(0)["algorithm"]
    for key, value in after.items():
        assert torch.equal(value, trained[f"policy.{key}"])
    moved = {k.split(".")[0] for k, v in after.items() if not torch.equal(v, before[k])}
    assert moved == {"actor_perturbation", "critic", "vae"}


def test_numbers_drawn_on_the_device_make_the_same_steps_in_any_portions():
    cfg, data = compose(*TINY), load_pendulum(num_steps=2000)

    def engine():
        bcq = algorithm_of(cfg, data.observation_space, data.action_space)
        stream = build_stream(
            bcq, cfg.seed, len(data.transitions), cfg.trainer, torch.device("cpu")
        )
        drawn = DeviceStream(**vars(stream), device=torch.device("cpu"))
        table = TransitionTable.of(data.transitions, torch.float32, torch.device("cpu"))
        return CohortEngine([bcq], table, [drawn], EagerExecutor)

    straight, portions = engine(), engine()
    expected = straight.advance(70)
    assert torch.equal(torch.cat([portions.advance(n) for n in (31, 2, 37)], 1), expected)
    assert_same_state(portions.state_dict(0), straight.state_dict(0))
    plain = engine_of([cfg], data)
    assert not torch.equal(plain.advance(70), expected)  # the host's numbers are others


@pytest.mark.parametrize(
    ("options", "num_threads"),
    [
        (["trainer.normalize_obs=true", "policy.action_scaling=true"], 1),  # a stack of two
        (["trainer.precision=fp64", "trainer.concurrent_from=500"], 2),  # two side by side
    ],
)
def test_a_large_set_is_read_from_its_memory_map(monkeypatch, options, num_threads):
    cfgs = [compose(*TINY, *options, f"seed={seed}") for seed in (0, 1)]
    data = load_pendulum(num_steps=2000)
    normalizer = build.build_normalizer(True, data, None)

    def engine():
        return engine_of(cfgs, data, normalizer, engine="eager", num_threads=num_threads)

    expected = engine().advance(BLOCK_STEPS + 4)
    monkeypatch.setattr(transitions, "LARGE", 0)
    monkeypatch.setattr(TransitionTable, "of", None)  # no copy of all is made
    portions, resumed = engine(), engine()
    statistics = [portions.advance(n) for n in (BLOCK_STEPS - 3, 5)]
    for run in (0, 1):
        resumed.load_state_dict(run, portions.state_dict(run))
    assert torch.equal(torch.cat([*statistics, resumed.advance(2)], 1), expected)


COUNT_XLA_THREADS = """
from pathlib import Path
from bcq_exp.data.datasets import load_pendulum
from tests.commands import compose, engine_of

cfg = compose("algo=bc", "actor.hidden_sizes=[8]", "trainer.engine=xla", {overrides})
engine_of([cfg], load_pendulum(num_steps=200)).advance(2)
names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
print(sum(name.startswith("tf_XLAEigen") for name in names))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("overrides", "environment", "count"),
    [
        pytest.param('"trainer.num_threads=3"', {}, 3, marks=pytest.mark.slow),
        ("", {"OMP_NUM_THREADS": "1"}, 1),  # a worker among several of joblib's
        # the user's own setting
        pytest.param('"trainer.num_threads=3"', {"PJRT_NPROC": "2"}, 2, marks=pytest.mark.slow),
    ],
)
def test_xla_takes_the_threads_of_its_process(overrides, environment, count):
    done = subprocess.run(
        [sys.executable, "-c", COUNT_XLA_THREADS.format(overrides=overrides)],
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == str(count)
