"""An algorithm whose steps take turns: an actor that learns every second step."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch.nn.functional import mse_loss

from bcq_exp.algorithm.base import OfflineAlgorithm, TrainingStats
from bcq_exp.algorithm.bc import BC
from bcq_exp.algorithm.mlp import frozen
from bcq_exp.algorithm.networks import Actor, Critic
from bcq_exp.algorithm.optim import AdamOptimizerFactory
from bcq_exp.algorithm.policy import DeterministicPolicy
from bcq_exp.algorithm.stacking import per_run
from bcq_exp.data.datasets import load_pendulum
from bcq_exp.engine.buffers import TransitionTable
from bcq_exp.engine.engine import CohortEngine, ParallelEngine
from bcq_exp.engine.executors import EagerExecutor
from bcq_exp.engine.stream import HostStream
from bcq_exp.engine.xla.compiler import XLACompiler
from bcq_exp.engine.xla.executor import Program
from bcq_exp.errors import RunStopped, UserError
from bcq_exp.training.record import RunRecord
from tests.commands import ANY_ALGORITHM, compose, fit
from tests.same import assert_close_state, assert_same_run, assert_same_state
from tests.training.signalled import interrupt_at


@dataclass(kw_only=True)
class Stats(TrainingStats):
    critic_loss: float
    actor_loss: float


class Networks(NamedTuple):
    critic: Any
    actor: Any


@per_run
def _critic_loss(critic, obs, act, rew):
    return mse_loss(critic(obs, act).squeeze(-1), rew)


@per_run
def _actor_loss(critic, actor, obs):
    return -critic(obs, actor(obs)).mean()


def critic_step(nets, optimizers, hyper, batch, noise):
    loss = _critic_loss(nets.critic, batch.obs, batch.act, batch.rew)
    optimizers["critic"].apply(loss)
    return {"critic_loss": loss}


def critic_and_actor_step(nets, optimizers, hyper, batch, noise):
    metrics = critic_step(nets, optimizers, hyper, batch, noise)
    with frozen(nets.critic):
        loss = _actor_loss(nets.critic, nets.actor, batch.obs)
        optimizers["actor"].apply(loss)
    return {**metrics, "actor_loss": loss}


class Delayed(OfflineAlgorithm):
    training_stats = Stats
    reads = ("policy", "actor", "actor_optim")
    steps = (critic_step, critic_and_actor_step)

    def __init__(self, policy, critic, optim):
        super().__init__(policy=policy)
        self.critic = critic
        self.optimizers = {
            "critic": optim.create(critic.parameters()),
            "actor": optim.create(policy.actor.parameters()),
        }

    @classmethod
    def build(cls, parts):
        actor = parts.network("actor", **parts.bounds)
        policy = DeterministicPolicy(actor=actor, **parts.policy)
        critic = parts.place(Critic(**parts.sizes, hidden_sizes=(8,)))
        return cls(policy, critic, parts.optimizer("actor_optim"))

    @property
    def networks(self):
        return Networks(self.critic, self.policy.actor)


def make(seed, lr=1e-3):
    data = load_pendulum(num_steps=2000)
    torch.manual_seed(seed)
    sizes = {"obs_dim": 3, "act_dim": 1, "hidden_sizes": (8, 8)}
    actor = Actor(**sizes, low=-2.0, high=2.0)
    policy = DeterministicPolicy(actor=actor.double(), action_space=data.action_space)
    return Delayed(policy, Critic(**sizes).double(), AdamOptimizerFactory(lr=lr))


def engine(*seeds, executor=EagerExecutor):
    data = load_pendulum(num_steps=2000)
    table = TransitionTable.of(data.transitions, torch.float64, torch.device("cpu"))
    runs = [make(seed, lr=1e-3 * (1 + seed)) for seed in seeds]
    streams = [
        HostStream(seed, len(data.transitions), 8, run.noise_shapes(8))
        for seed, run in zip(seeds, runs, strict=True)
    ]
    return CohortEngine(runs, table, streams, executor)


def test_a_metric_is_reported_by_the_steps_that_have_it():
    statistics = engine(0).advance(7)[0]
    critic, actor = statistics.unbind(-1)
    assert critic.isfinite().all()
    assert actor.isnan().tolist() == [True, False] * 3 + [True]


def compiler():
    return XLACompiler(is_required=True)


def test_compiled_steps_take_turns_in_any_portions():
    compiled, eager = engine(0, executor=compiler()), engine(0)
    metrics = torch.cat([compiled.advance(n) for n in (1, 2, 4, 33)], 1)
    torch.testing.assert_close(metrics, eager.advance(40), rtol=1e-9, atol=1e-11, equal_nan=True)
    assert_close_state(compiled.state_dict(0), eager.state_dict(0))


def test_a_stack_is_its_runs_alone():
    together = engine(0, 1, 2).advance(40)
    for k in range(3):
        alone = engine(k).advance(40)[0]
        torch.testing.assert_close(together[k], alone, rtol=1e-9, atol=1e-11, equal_nan=True)


def test_engines_side_by_side_compile_once_and_are_bitwise_those_alone(monkeypatch):
    compiled, shared = [], compiler()
    program = "bcq_exp.engine.xla.executor.Program"
    monkeypatch.setattr(program, lambda *args: compiled.append(1) or Program(*args))
    parallel = ParallelEngine([engine(k, executor=shared) for k in range(2)], num_threads=2)
    metrics = torch.cat([parallel.advance(n) for n in (1, 2, 17)], 1)
    assert len(compiled) == 1
    for k in range(2):
        expected = engine(k, executor=compiler()).advance(20)[0]
        torch.testing.assert_close(metrics[k], expected, rtol=0, atol=0, equal_nan=True)


@per_run
def _imitation_loss(actor, obs, act):
    return mse_loss(actor(obs), act)


def imitation_step(nets, optimizers, hyper, batch, noise):
    loss = _imitation_loss(nets.actor, batch.obs, batch.act)
    optimizers["actor"].apply(loss)
    return {"actor_loss": loss}


class Alternating(Delayed):
    """Critic and actor learn in turn."""

    steps = (critic_step, imitation_step)


class Shifted(Critic):
    """Its values are shifted by a tensor that is no buffer."""

    shift: torch.Tensor

    def forward(self, obs, act):
        return super().forward(obs, act) + self.shift


def test_a_program_that_holds_a_tensor_of_one_run_is_not_taken_by_another():
    def alternating(seed, executor):
        run, data = make(seed), load_pendulum(num_steps=2000)
        critic = Shifted(obs_dim=3, act_dim=1, hidden_sizes=(8, 8)).double()
        critic.load_state_dict(run.critic.state_dict())
        critic.shift = torch.full((1,), float(seed), dtype=torch.float64)
        run = Alternating(run.policy, critic, AdamOptimizerFactory(lr=1e-3))
        table = TransitionTable.of(data.transitions, torch.float64, torch.device("cpu"))
        stream = HostStream(seed, len(data.transitions), 8, run.noise_shapes(8))
        return CohortEngine([run], table, [stream], executor)

    shared = compiler()
    for seed in range(2):
        found = alternating(seed, shared).advance(20)
        expected = alternating(seed, EagerExecutor).advance(20)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11, equal_nan=True)


@pytest.mark.parametrize("step", [1, 5, 6])
def test_it_resumes_bitwise_from_any_turn(step):
    shared = compiler()
    straight, first, second = (engine(0, executor=shared) for _ in range(3))
    expected = straight.advance(20)[0, step:]
    first.advance(step)
    second.load_state_dict(0, first.state_dict(0))
    metrics = second.advance(20 - step)[0]
    torch.testing.assert_close(metrics, expected, rtol=0, atol=0, equal_nan=True)
    assert_same_state(second.state_dict(0), straight.state_dict(0))


def test_a_loss_that_is_nan_is_reported_as_infinite():
    broken = engine(0)
    broken.advance(5)
    with torch.no_grad():
        next(broken.algorithm(0).critic.parameters()).fill_(float("nan"))
    critic, actor = broken.advance(2)[0].unbind(-1)
    assert critic.isinf().all()
    assert actor[0].isinf() and actor[1].isnan()


@pytest.mark.slow
def test_train_csv_has_empty_cells_where_no_step_reported_a_metric(tmp_path):
    cfg = ("algo=bc", "algo._target_=tests.engine.test_turns.Delayed", *ANY_ALGORITHM)
    assert compose(*cfg).algo._target_.endswith("Delayed")
    fit(tmp_path / "one", *cfg, "trainer.log_every=1", "trainer.num_steps=6")
    rows = RunRecord(tmp_path / "one").rows("train")
    assert [row["actor_loss"] is None for row in rows] == [True, False] * 3
    fit(tmp_path / "two", *cfg, "trainer.log_every=2", "trainer.num_steps=6")
    pairs = RunRecord(tmp_path / "two").rows("train")
    assert [row["actor_loss"] for row in pairs] == [row["actor_loss"] for row in rows[1::2]]
    fit(tmp_path / "three", *cfg, "trainer.num_steps=51", "trainer.log_every=7")
    fit(tmp_path / "three", *cfg, "trainer.num_steps=120", "trainer.log_every=7")
    fit(tmp_path / "straight", *cfg, "trainer.num_steps=120", "trainer.log_every=7")
    three, straight = (RunRecord(tmp_path / n).rows("train") for n in ("three", "straight"))
    assert [r for r in three if r["step"] != 51][-3:] == straight[-3:]


def test_a_run_stopped_within_a_turn_resumes_bitwise(tmp_path, monkeypatch):
    cfg = ("algo=bc", "algo._target_=tests.engine.test_turns.Delayed", *ANY_ALGORITHM)
    cfg = (*cfg, "trainer.log_every=7")
    fit(tmp_path / "straight", *cfg)
    with monkeypatch.context() as patch, pytest.raises(RunStopped, match="at step 25, checkpoint"):
        interrupt_at(patch, 25)
        fit(tmp_path / "stopped", *cfg)
    fit(tmp_path / "stopped", *cfg)
    assert_same_run(tmp_path / "stopped", tmp_path / "straight")


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"actor_loss": torch.zeros(()), "gap": torch.zeros(())}, "metric gap: must be declared"),
        ({"actor_loss": 0.5}, "metric actor_loss: must be a tensor, not a float"),
        (
            {"actor_loss": torch.zeros(2)},
            r"metric actor_loss: must be one number a run, not \(2,\)",
        ),
    ],
)
def test_metrics_are_those_that_are_declared(monkeypatch, metrics, message):
    data = load_pendulum(num_steps=2000)
    actor = Actor(obs_dim=3, act_dim=1, hidden_sizes=(8,), low=-2.0, high=2.0).double()
    run = BC(
        policy=DeterministicPolicy(actor=actor, action_space=data.action_space),
        actor_optim=AdamOptimizerFactory(),
    )
    monkeypatch.setattr(BC, "steps", (lambda *_: metrics,))
    table = TransitionTable.of(data.transitions, torch.float64, torch.device("cpu"))
    streams = [HostStream(0, len(data.transitions), 8, run.noise_shapes(8))]
    with pytest.raises(UserError, match=message):
        CohortEngine([run], table, streams, EagerExecutor).advance(1)
