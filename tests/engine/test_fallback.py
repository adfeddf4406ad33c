"""A recorded step is tried beside a plain one first; where it is another, steps are plain."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from bcq_exp.algorithm.optim import SGDOptimizerFactory
from bcq_exp.data.datasets import load_pendulum
from bcq_exp.engine import capture
from bcq_exp.engine.capture import eager, kernel_list, verified
from tests.commands import TINY, bcq_exp, compose, engine_of
from tests.same import assert_same_state

SAID = "steps are not recorded but run one by one, which is slower"


class CountingSGD(torch.optim.SGD):
    """Its learning rate falls with a counter of Python's, which a recording cannot see."""

    def step(self, closure=None):
        self.taken = getattr(self, "taken", 0) + 1
        for group in self.param_groups:
            group["lr"] = 0.01 / self.taken
        super().step(closure)


class BranchingSGD(torch.optim.SGD):
    """Looks at a value, which cannot be traced."""

    def step(self, closure=None):
        if self.param_groups[0]["params"][0].sum().item() > -1e9:
            super().step(closure)


@dataclass(frozen=True)
class CountingFactory(SGDOptimizerFactory):
    def torch_optimizer(self, params):
        return CountingSGD(params, lr=self.lr)


@dataclass(frozen=True)
class BranchingFactory(SGDOptimizerFactory):
    def torch_optimizer(self, params):
        return BranchingSGD(params, lr=self.lr)


@pytest.fixture(autouse=True)
def warn_anew():
    capture._warn.cache_clear()


def engines(*overrides):
    cfg, data = compose(*TINY, *overrides), load_pendulum(num_steps=2000)
    return engine_of([cfg], data), engine_of([cfg], data, capture=eager)


@pytest.mark.parametrize("name", ["CountingFactory", "BranchingFactory"])
def test_an_optimizer_that_cannot_be_recorded_steps_plainly_and_right(name, caplog):
    target = f"critic_optim._target_=tests.engine.test_fallback.{name}"
    with caplog.at_level(logging.WARNING):
        recorded, plain = engines("optimizer@critic_optim=sgd", target)
        told = torch.cat([recorded.advance(n) for n in (3, 20)], 1)
    assert sum(SAID in record.message for record in caplog.records) == 1
    if name == "BranchingFactory":
        assert torch.equal(told, plain.advance(23))
        assert_same_state(recorded.state_dict(0), plain.state_dict(0))


def test_where_torchs_private_parts_have_moved_steps_are_plain(monkeypatch, caplog):
    def moved(*args):
        raise AttributeError("module 'torch._C' has no attribute 'Graph'")

    monkeypatch.setattr(capture, "compile_kernels", moved)
    recorded, plain = engines()
    with caplog.at_level(logging.WARNING):
        assert torch.equal(recorded.advance(10), plain.advance(10))
    (said,) = [r.message for r in caplog.records if SAID in r.message]
    assert "AttributeError: module 'torch._C' has no attribute 'Graph'" in said
    assert "trainer.capture=eager" in said
    assert_same_state(recorded.state_dict(0), plain.state_dict(0))


def test_a_replay_that_does_something_else_is_not_used(caplog):
    state = [torch.zeros(3), torch.ones(2, dtype=torch.int64)]

    def program():
        state[0].add_(state[1].sum())

    def wrong(program, tensors):
        return lambda times: tensors[0].add_(times)  # one at a time, not two

    with caplog.at_level(logging.WARNING):
        replay = verified(wrong, program, state, [], lambda: None)
    assert state[0].tolist() == [0, 0, 0]  # trying it left no trace
    replay(2)
    assert state[0].tolist() == [4, 4, 4]
    assert "replayed, 1 of 2 tensors become others" in caplog.text


def test_a_replay_that_is_right_is_used_without_a_word(caplog):
    state, calls = [torch.zeros(())], []

    def program():
        calls.append(1)
        state[0].add_(1)

    replay = verified(kernel_list, program, state, [], lambda: None)
    before = len(calls)
    replay(5)
    assert (state[0].item(), len(calls), caplog.text) == (5, before, "")


def test_capture_eager_records_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(capture, "_recorded", None)  # calling it would raise
    cfg, data = compose(*TINY, "trainer.capture=eager"), load_pendulum(num_steps=2000)
    plain = engine_of([cfg], data)
    plain.advance(5)
    assert plain.step == 5


class OwnCritic(torch.nn.Module):
    """A user's critic of plain layers that declares itself pure."""

    pure = True

    def __init__(self, *, obs_dim, act_dim, hidden_sizes):
        super().__init__()
        width = hidden_sizes[0]
        self.of_obs = torch.nn.Linear(obs_dim, width)
        self.of_act = torch.nn.Linear(act_dim, width)
        self.out = torch.nn.Linear(width, 1)

    def forward(self, obs, act):  # (B, 1, O) broadcasts beside (B, n, A)
        return self.out((self.of_obs(obs) + self.of_act(act)).relu())


class PlainCritic(OwnCritic):
    """The same, that declares nothing."""

    pure = False


OWN = "critic._target_=tests.engine.test_fallback."


def test_a_critic_of_ones_own_that_declares_it_is_recorded_stacked_and_computed_in_bf16(caplog):
    data = load_pendulum(num_steps=2000)
    cfgs = [compose(*TINY, f"{OWN}OwnCritic", f"seed={k}") for k in range(3)]
    stacked = engine_of(cfgs, data)
    assert stacked.num_runs == 3  # one engine, not three side by side
    told = stacked.advance(20)
    for k, cfg in enumerate(cfgs):
        alone = engine_of([cfg], data, capture=eager).advance(20)[0]
        torch.testing.assert_close(told[k], alone, rtol=2e-3, atol=2e-4)
    assert SAID not in caplog.text
    bf16 = engine_of([compose(*TINY, f"{OWN}OwnCritic", "trainer.precision=bf16")], data)
    critic = bf16.algorithm(0).policy.critic
    assert {p.dtype for p in critic.parameters()} == {torch.float32}
    assert critic.out.compute_dtype == torch.bfloat16
    assert not torch.equal(bf16.advance(3)[0], told[0, :3])


def test_one_that_declares_nothing_trains_the_same_by_plain_steps_side_by_side():
    data = load_pendulum(num_steps=2000)
    own, plain = (
        engine_of([compose(*TINY, f"{OWN}{name}", "trainer.precision=fp64")], data)
        for name in ("OwnCritic", "PlainCritic")
    )
    torch.testing.assert_close(plain.advance(20), own.advance(20), rtol=1e-9, atol=1e-11)
    assert not plain.algorithm(0).can_be_recorded
    cfgs = [compose(*TINY, f"{OWN}PlainCritic", f"seed={k}") for k in range(2)]
    assert [e.num_runs for e in engine_of(cfgs, data)._engines] == [1, 1]
    bf16 = engine_of([compose(*TINY, f"{OWN}PlainCritic", "trainer.precision=bf16")], data)
    assert type(bf16.algorithm(0).policy.critic.out) is torch.nn.Linear


@pytest.mark.slow
def test_on_the_command_line_there_is_one_warning_and_training_goes_on(tmp_path):
    done = bcq_exp(
        *(*TINY, "optimizer@critic_optim=sgd", "trainer.num_steps=40", "name=r"),
        "critic_optim._target_=tests.engine.test_fallback.BranchingFactory",
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(SAID) == 1
    assert "BCQ, last" in done.stdout
