"""A compiled step is tried next to an eager one first; where it differs, steps are eager."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import jax
import pytest
import torch

from bcq_exp.algorithm.bc import BC, imitation_loss
from bcq_exp.algorithm.hyperparameters import Hyperparameters, number
from bcq_exp.algorithm.optim import SGDOptimizerFactory
from bcq_exp.data.datasets import load_pendulum
from bcq_exp.engine.placement import EAGER_STEPS, resolve_engine
from bcq_exp.errors import UserError
from tests.commands import ANY_ALGORITHM, TINY, bcq_exp, compose, engine_of
from tests.same import assert_same_state

WARNING = "steps run eagerly, which is slower"
ONE = torch.ones(1, 1)
SCALE = 1e7  # of float32 sums whose true value is 0, so that they are rounding of about 1


class CountingSGD(torch.optim.SGD):
    """Its learning rate follows a counter of Python's, which a program cannot see."""

    def step(self, closure=None):
        self.taken = getattr(self, "taken", 0) + 1
        for group in self.param_groups:
            group["lr"] = 0.01 * (1 + self.taken % 2)
        super().step(closure)


class BranchingSGD(torch.optim.SGD):
    """Looks at a value, which cannot be traced."""

    def step(self, closure=None):
        if self.param_groups[0]["params"][0].sum().item() > -1e9:
            super().step(closure)


class CancellingSGD(torch.optim.SGD):
    """Scales the gradients of a matrix's rows by 1 and sums that are all rounding."""

    def step(self, closure=None):
        for group in self.param_groups:
            for weight in filter(lambda p: p.ndim == 2, group["params"]):
                deviations = weight.detach() - weight.detach().mean(1, keepdim=True)
                weight.grad.mul_(1 + (SCALE * deviations).sum(1, keepdim=True))
        super().step(closure)


@dataclass(frozen=True)
class CancellingFactory(SGDOptimizerFactory):
    def torch_optimizer(self, params):
        return CancellingSGD(params, lr=self.lr)


@dataclass(frozen=True)
class CountingFactory(SGDOptimizerFactory):
    def torch_optimizer(self, params):
        return CountingSGD(params, lr=self.lr)


class Float32SGD(CountingSGD):
    """The same, for parameters in float32 only."""

    def step(self, closure=None):
        for group in self.param_groups:
            for param in group["params"]:
                param.detach().reshape(-1, 1) @ ONE
        super().step(closure)


@dataclass(frozen=True)
class Float32Factory(SGDOptimizerFactory):
    def torch_optimizer(self, params):
        return Float32SGD(params, lr=self.lr)


@dataclass(frozen=True)
class BranchingFactory(SGDOptimizerFactory):
    def torch_optimizer(self, params):
        return BranchingSGD(params, lr=self.lr)


# algorithms that are compiled in a fraction of BCQ's time
BC_OPTIONS, DDPG_OPTIONS = ((*ANY_ALGORITHM, f"algo={algo}") for algo in ("bc", "ddpg"))


def engines(*overrides):
    """The engine that may fall back, and an eager one."""
    cfg, data = compose(*BC_OPTIONS, *overrides), load_pendulum(num_steps=2000)
    return engine_of([cfg], data), engine_of([cfg], data, engine="eager")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("CountingFactory", "tensors differ between the compiled and the eager step"),
        ("Float32Factory", "tensors differ between the compiled and the eager step"),
        ("BranchingFactory", "aten._local_scalar_dense.default"),
    ],
)
def test_an_optimizer_that_cannot_be_compiled_steps_eagerly_and_right(name, reason, caplog):
    target = f"actor_optim._target_=tests.engine.test_fallback.{name}"
    falling_back, eager = engines("optimizer@actor_optim=sgd", target)
    with caplog.at_level(logging.WARNING):
        metrics = torch.cat([falling_back.advance(n) for n in (EAGER_STEPS, 20)], 1)
    (warning,) = [r.message for r in caplog.records if WARNING in r.message]
    assert reason in warning and "trainer.engine=eager" in warning
    if name == "BranchingFactory":
        assert torch.equal(metrics, eager.advance(EAGER_STEPS + 20))
        assert_same_state(falling_back.state_dict(0), eager.state_dict(0))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_steps_that_amplify_rounding_are_compiled(precision, caplog):
    target = "actor_optim._target_=tests.engine.test_fallback.CancellingFactory"
    precise = f"trainer.precision={precision}"
    engine, eager = engines("optimizer@actor_optim=sgd", target, precise)
    with caplog.at_level(logging.WARNING):
        found = torch.cat([engine.advance(n) for n in (EAGER_STEPS, 20)], 1)
    assert not [r.message for r in caplog.records if WARNING in r.message]
    expected = eager.advance(EAGER_STEPS + 20)
    assert torch.equal(found[:, :EAGER_STEPS], expected[:, :EAGER_STEPS])
    assert not torch.equal(found, expected)  # the last steps were compiled
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.01)


def test_a_program_that_xla_cannot_run_is_replaced_by_eager_steps(monkeypatch, caplog):
    def refused(*_):
        raise jax.errors.JaxRuntimeError("UNIMPLEMENTED: no such product\nat line 1")

    monkeypatch.setattr("bcq_exp.engine.xla.executor.jax.jit", lambda *_, **__: refused)
    falling_back, eager = engines()
    with caplog.at_level(logging.WARNING):
        found = torch.cat([falling_back.advance(n) for n in (EAGER_STEPS, 20)], 1)
    (warning,) = [r.message for r in caplog.records if WARNING in r.message]
    assert "XLA: UNIMPLEMENTED: no such product; trainer.engine=eager" in warning
    assert torch.equal(found, eager.advance(EAGER_STEPS + 20))


def test_what_cannot_be_compiled_is_an_error_where_xla_is_asked_for():
    target = "actor_optim._target_=tests.engine.test_fallback.BranchingFactory"
    cfg = compose(*BC_OPTIONS, "optimizer@actor_optim=sgd", target, "trainer.engine=xla")
    with pytest.raises(UserError, match=r"trainer.engine=xla: .*_local_scalar_dense.*use auto"):
        engine_of([cfg], load_pendulum(num_steps=2000)).advance(3)


def test_an_operator_without_a_program_is_named(monkeypatch):
    (step,) = BC.steps

    def drawing(networks, optimizers, hyperparameters, batch, noise):
        metrics = step(networks, optimizers, hyperparameters, batch, noise)
        return {name: value + torch.rand_like(value) for name, value in metrics.items()}

    monkeypatch.setattr(BC, "steps", (drawing,))
    cfg = compose(*BC_OPTIONS, "trainer.engine=xla")
    with pytest.raises(UserError, match=r"trainer.engine=xla: .*aten.rand_like"):
        engine_of([cfg], load_pendulum(num_steps=2000)).advance(3)


def test_an_engine_that_is_not_available_is_refused(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    with pytest.raises(UserError, match="engine=cuda_graph: needs a CUDA device"):
        resolve_engine("cuda_graph", cpu)
    with pytest.raises(UserError, match="engine=xla: compiles for CPUs"):
        resolve_engine("xla", cuda)
    assert (resolve_engine("auto", cpu), resolve_engine("auto", cuda)) == ("xla", "cuda_graph")
    monkeypatch.setattr("bcq_exp.engine.placement.find_spec", lambda name: None)
    assert resolve_engine("auto", cpu) == "eager"
    with pytest.raises(UserError, match="engine=xla: JAX is not installed; pip install jax"):
        resolve_engine("xla", cpu)


def test_a_short_run_compiles_nothing(monkeypatch):
    monkeypatch.setattr("bcq_exp.engine.xla.compiler.XLACompiler.__call__", None)  # would raise
    engine, eager = engines()
    assert torch.equal(engine.advance(EAGER_STEPS), eager.advance(EAGER_STEPS))


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


def test_a_custom_critic_that_declares_it_is_compiled_stacked_and_computed_in_bf16():
    data = load_pendulum(num_steps=2000)
    cfgs = [compose(*DDPG_OPTIONS, f"{OWN}OwnCritic", f"seed={k}") for k in range(2)]
    stacked = engine_of(cfgs, data, engine="eager", stacks=True, num_threads=1)
    assert stacked.num_runs == 2  # one engine, not two side by side
    metrics = stacked.advance(20)
    for k, cfg in enumerate(cfgs):
        alone = engine_of([cfg], data, engine="xla", engine_is_required=True).advance(20)[0]
        torch.testing.assert_close(metrics[k], alone, rtol=2e-3, atol=2e-4)
    bf16 = engine_of([compose(*DDPG_OPTIONS, f"{OWN}OwnCritic", "trainer.precision=bf16")], data)
    critic = bf16.algorithm(0).critic
    assert {p.dtype for p in critic.parameters()} == {torch.float32}
    assert critic.out.compute_dtype == torch.bfloat16
    assert not torch.equal(bf16.advance(3)[0], metrics[0, :3])


class ScaledCritic(OwnCritic):
    """Has a parameter of one number."""

    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.scale = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, obs, act):
        return self.scale * super().forward(obs, act)


class CenteringCritic(OwnCritic):
    """Learns a mean of observations while it computes."""

    def __init__(self, *, obs_dim, **sizes):
        super().__init__(obs_dim=obs_dim, **sizes)
        self.register_buffer("mean", torch.zeros(obs_dim))

    def forward(self, obs, act):
        with torch.no_grad():
            self.mean.copy_(0.9 * self.mean + 0.1 * obs.flatten(0, -2).mean(0))
        return super().forward(obs - self.mean, act)


class RoundingCritic(OwnCritic):
    """Computes with numbers of types that no other network has."""

    def forward(self, obs, act):
        signs = obs.sign().to(torch.int8)
        return super().forward(obs.half().to(obs.dtype) + 0.1 * signs, act)


class RepeatingCritic(OwnCritic):
    """Has one layer, and the weight of another, in two places."""

    def __init__(self, *, obs_dim, act_dim, hidden_sizes):
        super().__init__(obs_dim=obs_dim, act_dim=act_dim, hidden_sizes=hidden_sizes)
        self.first = self.second = torch.nn.Linear(obs_dim, obs_dim)
        self.third = torch.nn.Linear(obs_dim, obs_dim)
        self.third.weight = self.first.weight

    def forward(self, obs, act):
        return super().forward(self.third(self.second(self.first(obs).relu()).relu()), act)


class WastefulCritic(OwnCritic):
    """Has a layer that it does not call."""

    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.other = torch.nn.Linear(3, 3)


PURE = [ScaledCritic, CenteringCritic, RoundingCritic, RepeatingCritic, WastefulCritic]


@pytest.mark.parametrize("critic", PURE, ids=lambda critic: critic.__name__)
def test_every_executor_steps_a_pure_network_alike(critic):
    own = f"{OWN}{critic.__name__}"
    options = (*DDPG_OPTIONS, own, "critic_optim.max_grad_norm=0.01", "trainer.precision=fp64")
    data = load_pendulum(num_steps=2000)
    cfgs = [compose(*options, f"seed={k}") for k in range(3)]
    stacked = engine_of(cfgs, data, engine="eager", stacks=True, num_threads=1).advance(20)
    for cfg, of_stack in zip(cfgs, stacked, strict=True):
        eager = engine_of([cfg], data, engine="eager").advance(20)[0]
        torch.testing.assert_close(of_stack, eager, rtol=1e-9, atol=1e-11)
    compiled = engine_of([cfgs[2]], data, engine="xla", engine_is_required=True).advance(20)[0]
    torch.testing.assert_close(compiled, eager, rtol=1e-7, atol=1e-9)


class ReplacingCritic(CenteringCritic):
    """Replaces its buffer instead of writing to it."""

    def forward(self, obs, act):
        with torch.no_grad():
            self.mean = 0.9 * self.mean + 0.1 * obs.flatten(0, -2).mean(0)
        return OwnCritic.forward(self, obs - self.mean, act)


@pytest.mark.parametrize(
    "executor", [{"engine": "xla", "engine_is_required": True}, {"engine": "eager", "stacks": True}]
)
def test_a_pure_network_that_replaces_a_buffer_is_refused(executor):
    data = load_pendulum(num_steps=2000)
    cfgs = [compose(*DDPG_OPTIONS, f"{OWN}ReplacingCritic", f"seed={k}") for k in range(2)]
    with pytest.raises(UserError, match="pure network replaces a buffer; change it in place"):
        engine_of(cfgs, data, num_threads=1, **executor).advance(20)


def test_a_custom_critic_that_declares_nothing_trains_the_same_by_eager_steps_side_by_side():
    data = load_pendulum(num_steps=2000)
    own, plain = (
        engine_of([compose(*TINY, f"{OWN}{name}", "trainer.precision=fp64")], data)
        for name in ("OwnCritic", "PlainCritic")
    )
    torch.testing.assert_close(plain.advance(20), own.advance(20), rtol=1e-9, atol=1e-11)
    assert not plain.algorithm(0).can_be_compiled
    cfgs = [compose(*TINY, f"{OWN}PlainCritic", f"seed={k}") for k in range(2)]
    assert [e.num_runs for e in engine_of(cfgs, data)._engines] == [1, 1]
    bf16 = engine_of([compose(*TINY, f"{OWN}PlainCritic", "trainer.precision=bf16")], data)
    assert type(bf16.algorithm(0).policy.critic.out) is torch.nn.Linear


@pytest.mark.slow
def test_on_the_command_line_there_is_one_warning_and_training_continues(tmp_path):
    done = bcq_exp(
        *(*TINY, "optimizer@critic_optim=sgd", "trainer.num_steps=160", "name=r"),
        "critic_optim._target_=tests.engine.test_fallback.BranchingFactory",
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(WARNING) == 1
    assert "BCQ, last" in done.stdout


@dataclass(frozen=True)
class RuleHyperparameters(Hyperparameters):
    rule: str | None = number(None, None, "how the error is measured; null: squared")


def rule_step(nets, optimizers, hyper, batch, noise):
    loss = imitation_loss(nets.actor, batch.obs, batch.act)
    loss = loss if hyper.rule is None else loss.sqrt()
    optimizers["actor"].apply(loss)
    return {"actor_loss": loss}


class WithRule(BC):
    Hyperparameters = RuleHyperparameters
    steps = (rule_step,)

    @classmethod
    def build(cls, parts):
        built = super().build(parts)
        built.hyperparameters = RuleHyperparameters(**parts.hyperparameters)
        return built


def test_hyperparameters_that_are_no_numbers_are_constants_of_compiled_steps():
    data, target = load_pendulum(num_steps=2000), f"algo._target_={__name__}.WithRule"
    cfgs = [compose(*BC_OPTIONS, target, f"+algo.rule={rule}") for rule in ("null", "root")]
    metrics = engine_of(cfgs, data, engine="xla", engine_is_required=True).advance(20)
    for k, cfg in enumerate(cfgs):
        eager = engine_of([cfg], data, engine="eager").advance(20)[0]
        torch.testing.assert_close(metrics[k], eager, rtol=1e-4, atol=1e-5)
