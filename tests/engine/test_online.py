"""Online agents: the data they collect, their gradient steps, and bitwise resumption."""

import threading

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import PendulumEnv
from gymnasium.spaces import Box

from bcq_exp.algorithm.base import NoNoise
from bcq_exp.algorithm.batch import Batch
from bcq_exp.algorithm.policy import DeterministicPolicy
from bcq_exp.analysis.runs import load_runs
from bcq_exp.data.datasets import load_pendulum
from bcq_exp.data.online import explore
from bcq_exp.engine.buffers import TransitionTable
from bcq_exp.engine.stream import BLOCK_STEPS, GrowingStream
from bcq_exp.errors import UserError
from bcq_exp.training.record import RunRecord
from tests.commands import compose, engine_of, fit
from tests.same import assert_same_run, assert_same_state, checkpoint

ONLINE = (
    "algo=ddpg",
    "online=explore",
    "online.env=Pendulum-v1",
    "online.start_steps=60",
    "online.noise_std=0.3",
    "trainer.num_steps=240",
    "trainer.batch_size=8",
    "trainer.log_every=20",
    "trainer.eval_every=120",
    "trainer.eval_episodes=2",
    "trainer.checkpoint_every=60",
    "actor.hidden_sizes=[8]",
    "critic.hidden_sizes=[8]",
    "logger=none",
)


class Chaos(gym.Env):
    """Actions are doubles, and a rounded one leads elsewhere."""

    observation_space = Box(-1.0, 1.0, (1,), np.float64)
    action_space = Box(-1.0, 1.0, (1,), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-1, 1, 1)
        return self.state, {}

    def step(self, action):
        self.state = np.sin(1e9 * (self.state + action))
        return self.state, float(self.state[0]), False, False, {}


class InPlace(gym.Env):
    """Counts in one array, which it returns at every step, and writes to its actions."""

    observation_space = Box(0.0, 100.0, (1,))
    action_space = Box(-1.0, 1.0, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = np.zeros(1, np.float32)
        return self.state, {}

    def step(self, action):
        self.state += 1
        action *= 0
        return self.state, 0.0, False, False, {}


gym.register("InPlace-v0", InPlace, max_episode_steps=40, disable_env_checker=True)
gym.register("Chaos-v0", Chaos, max_episode_steps=40)
gym.register("ShortPendulum-v0", PendulumEnv, max_episode_steps=40)
gym.register("Endless-v0", Chaos)
BCQ = ("algo=bcq", "vae.hidden_sizes=[8]", "policy.forward_sampled_times=5")


def engine(*overrides, **changed):
    cfg = compose(*ONLINE, *overrides)
    task = explore(
        cfg.online.env, start_steps=cfg.online.start_steps, noise_std=cfg.online.noise_std
    )
    return engine_of([cfg], task, **changed)


def collected(online):
    state = online.state_dict(0)
    return {name: value.numpy() for name, value in state["collected"].items()}, state


def test_what_is_collected_is_what_the_environment_does():
    online = engine("online.env=ShortPendulum-v0")
    online.advance(100)
    rows, _ = collected(online)
    assert rows["obs"].shape == (100, 3)
    ends = np.flatnonzero(rows["truncated"])
    assert ends.tolist() == [39, 79]  # its limit; nothing crosses it
    assert not rows["terminated"].any()
    follows = np.ones(100, bool)
    follows[ends] = False
    after, before = rows["obs_next"][:-1], rows["obs"][1:]
    np.testing.assert_array_equal(after[follows[:-1]], before[follows[:-1]])
    env = explore("Pendulum-v1", start_steps=0, noise_std=0.0).make_env()
    env.reset()
    cos, sin, speed = rows["obs"][0]
    env.unwrapped.state = np.array([np.arctan2(sin, cos), speed], np.float64)
    for t in range(5):  # the recorded actions lead where was recorded
        obs, reward, *_ = env.step(rows["act"][t])
        np.testing.assert_allclose(obs, rows["obs_next"][t], atol=1e-4)
        assert reward == pytest.approx(rows["rew"][t], abs=1e-4)


def test_it_explores_at_random_first_and_by_the_policy_with_noise_then():
    quiet, noisy = engine("online.noise_std=0"), engine()
    for online in (quiet, noisy):
        online.advance(61)
    first, second = (collected(online)[0]["act"] for online in (quiet, noisy))
    np.testing.assert_array_equal(first[:60], second[:60])
    assert np.abs(first[:60]).max() > 1.5 and abs(first[:60].mean()) < 0.5  # uniform on [-2, 2]
    fresh = engine("online.noise_std=0")
    obs = collected(quiet)[0]["obs"][60:61]
    policy = fresh.algorithm(0).policy
    expected = policy.map_action(policy(Batch(obs=obs)).act)
    np.testing.assert_allclose(first[60:61], expected, atol=1e-5)
    assert abs(second[60] - first[60]) > 1e-3


def test_a_gradient_step_is_the_algorithms_own_on_the_transitions_collected_so_far():
    online, alone = engine(engine="eager"), engine().algorithm(0)
    metrics = online.advance(100)[0]
    assert metrics[:60].isnan().all() and metrics[60:].isfinite().all()
    rows, state = collected(online)
    assert state["gradient_steps"] == 40
    stream = GrowingStream(0, 240, 8, alone.noise_shapes(8), first_rows=61)
    for k in range(40):
        index, row = divmod(k, BLOCK_STEPS)
        chosen = stream.block(index).indices[row].numpy()
        assert chosen.max() <= 60 + k
        names = ("obs", "act", "rew", "terminated", "obs_next")
        batch = {n: torch.as_tensor(rows[n][chosen]).float() for n in names}
        values = alone.gradient_step(Batch(**batch), alone.draw_noise(8))
        assert metrics[60 + k, 0].item() == pytest.approx(values["actor_loss"].item(), rel=1e-5)
        assert metrics[60 + k, 1].item() == pytest.approx(values["critic_loss"].item(), rel=1e-5)
    for a, b in zip(alone.parameters(), online.algorithm(0).parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_indices_are_uniform_over_the_transitions_collected_so_far():
    stream = GrowingStream(3, 40, 400, NoNoise(), first_rows=1)
    indices = stream.block(0).indices
    for k in range(BLOCK_STEPS):
        assert set(indices[k].tolist()) == set(range(k + 1))
    counts = np.bincount(indices[31].numpy(), minlength=32)
    assert np.abs(counts - 12.5).max() < 5 * np.sqrt(12.5)
    assert set(stream.block(1).indices[20].tolist()) == set(range(40))  # all there will be


def test_what_a_policy_draws_follows_from_the_runs_seed_and_the_step():
    drawn = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        online, seeds = engine(*BCQ, f"seed={seed}"), []
        online.algorithm(0).policy.register_forward_pre_hook(
            lambda policy, args, kwargs, seeds=seeds: seeds.append(
                kwargs["generator"].initial_seed()
            ),
            with_kwargs=True,
        )
        online.advance(100)
        drawn[name] = seeds
    assert len(drawn["a"]) == 40 and drawn["a"] == drawn["b"]
    assert len({*drawn["a"], *drawn["c"]}) == 80


COMPILED = {"engine": "xla", "engine_is_required": True}
DDPG, IQL = ("algo=ddpg",), ("algo=iql",)


@pytest.mark.parametrize(
    ("algo", "precision"),
    [
        pytest.param(DDPG, "fp32", id="ddpg-fp32"),
        pytest.param(IQL, "fp64", id="iql-fp64"),
        pytest.param(BCQ, "fp32", id="bcq-fp32"),
        pytest.param(DDPG, "fp64", id="ddpg-fp64", marks=pytest.mark.slow),
        pytest.param(IQL, "fp32", id="iql-fp32", marks=pytest.mark.slow),
        pytest.param(BCQ, "fp64", id="bcq-fp64", marks=pytest.mark.slow),
    ],
)
def test_compiled_actions_are_those_of_the_policy(algo, precision):
    online = engine(*algo, f"trainer.precision={precision}", **COMPILED)
    online.advance(65)
    policy, calls = online.algorithm(0).policy, []
    hook = policy.register_forward_pre_hook(lambda *_: calls.append(1))
    online.advance(10)
    assert not calls  # torch computed none of them
    hook.remove()
    for seed in range(5):
        obs = np.random.default_rng(seed).standard_normal((1, 3)).astype(np.float32)
        compiled = online._learner.act(obs, torch.Generator().manual_seed(seed))
        expected = online.algorithm(0).policy(
            Batch(obs=obs), generator=torch.Generator().manual_seed(seed)
        )
        assert compiled.dtype == expected.act.dtype
        rtol = 1e-4 if precision == "fp32" else 1e-12
        np.testing.assert_allclose(compiled, expected.act, rtol=rtol)


class OwnForward(DeterministicPolicy):
    """Does not act by ``action`` alone, and learns a mean while it acts."""

    def __init__(self, **options):
        super().__init__(**options)
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, batch, state=None, **kwargs):
        self.mean += 0.1 * (torch.as_tensor(batch.obs[0]).float() - self.mean)
        acting = super().forward(batch, state, **kwargs)
        return Batch(act=acting.act + self.mean.sum().item() / 10, state=state)


class Counting(DeterministicPolicy):
    """Computes in Python and NumPy what torch does not see."""

    count = 0

    def action(self, obs, normal=None):
        self.count += 1
        return torch.from_numpy(np.sin(obs.numpy()[:, :1] + self.count / 50)).float()


class Branching(DeterministicPolicy):
    """Declares itself pure, but has other kernels for other observations."""

    pure = True

    def action(self, obs, normal=None):
        act = super().action(obs, normal)
        return act * (1.0 if obs.sum().item() < 0 else 0.5)


@pytest.mark.parametrize("own", [OwnForward, Counting, Branching])
def test_a_policy_that_cannot_be_compiled_acts_eagerly(own, monkeypatch):
    monkeypatch.setattr("bcq_exp.algorithm.ddpg.DeterministicPolicy", own)
    acts = []
    for how in (COMPILED, {"engine": "eager"}):
        online = engine("online.noise_std=0", **how)
        assert type(online.algorithm(0).policy) is own
        online.advance(80)
        acts.append(collected(online)[0]["act"][60:80])
    np.testing.assert_allclose(*acts, rtol=1e-3)
    assert np.ptp(acts[0]) > 0.01


def test_a_hook_of_a_policy_is_called():
    online, calls = engine(**COMPILED), []
    online.algorithm(0).policy.register_forward_hook(lambda *_: calls.append(1))
    online.advance(70)
    assert len(calls) == 10


def test_an_environment_may_change_its_observation_and_action_in_place():
    online = engine("online.env=InPlace-v0")
    online.advance(50)
    rows, _ = collected(online)
    np.testing.assert_array_equal(rows["obs"][:5, 0], np.arange(5))
    np.testing.assert_array_equal(rows["obs_next"][:5, 0], np.arange(1, 6))
    assert np.abs(rows["act"]).min() > 0


@pytest.mark.parametrize("compiled", [{}, COMPILED], ids=["eager", "compiled"])
@pytest.mark.parametrize("env", ["ShortPendulum-v0", "Chaos-v0"])
def test_it_resumes_bitwise_within_an_episode(env, compiled):
    straight = engine(f"online.env={env}", **compiled)
    expected = straight.advance(110)
    first = engine(f"online.env={env}", **compiled)
    for step in (0, 30, 60, 61, 90):
        first.advance(step - first.step)
        second = engine(f"online.env={env}", **compiled)
        second.load_state_dict(0, first.state_dict(0))
        metrics = second.advance(110 - step)
        torch.testing.assert_close(metrics, expected[:, step:], rtol=0, atol=0, equal_nan=True)
        assert_same_state(second.state_dict(0), straight.state_dict(0))


@pytest.mark.parametrize(
    "algo", ["ddpg", *(pytest.param(a, marks=pytest.mark.slow) for a in ("td3_bc", "bcq"))]
)
def test_a_run_has_the_files_of_any_other_and_resumes_bitwise(algo, tmp_path):
    sizes = {"bcq": ["vae.hidden_sizes=[8]", "policy.forward_sampled_times=5"]}.get(algo, [])
    options = (*ONLINE, "trainer.eval_every=100", f"algo={algo}", *sizes)
    fit(tmp_path / "straight", *options)
    fit(tmp_path / "two", *options, "trainer.num_steps=200")  # some of them compiled
    fit(tmp_path / "two", *options)
    assert_same_run(tmp_path / "two", tmp_path / "straight")
    record = RunRecord(tmp_path / "two")
    rows = record.rows("train")
    assert [row["step"] for row in rows] == list(range(20, 241, 20))
    assert rows[0][list(rows[0])[1]] is None and rows[-1][list(rows[0])[1]] is not None
    assert [row["step"] for row in record.rows("eval")] == [100, 200, 240]
    summary = record.summary()
    assert summary["dataset"]["id"] == "online/Pendulum-v1"
    assert summary["dataset"]["behaviour_return"] is None
    assert len(checkpoint(tmp_path / "two")["engine"]["collected"]["rew"]) == 240


def test_runs_of_a_sweep_explore_side_by_side_as_they_do_alone():
    cfgs = [compose(*ONLINE, f"seed={k}") for k in range(2)]
    task = explore("Pendulum-v1", start_steps=60, noise_std=0.3)
    together = engine_of(cfgs, task, num_threads=2)
    metrics = torch.cat([together.advance(n) for n in (1, 70, 49)], 1)
    for k, cfg in enumerate(cfgs):
        alone = engine_of([cfg], task).advance(120)[0]
        torch.testing.assert_close(metrics[k], alone, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("size", [1, 40])
def test_runs_that_explore_advance_on_threads_even_by_one_step_at_a_time(size):
    cfgs = [compose(*ONLINE, f"seed={k}") for k in range(2)]
    together = engine_of(cfgs, explore("Pendulum-v1", start_steps=60, noise_std=0.3), num_threads=2)
    threads = {}

    def noted(online, advance):
        def advanced(num_steps):
            threads[online] = threading.get_ident()
            return advance(num_steps)

        online.advance = advanced

    for online in together._engines:
        noted(online, online.advance)
    here = {threading.get_ident()}
    for _ in range(80 // size):
        together.advance(size)
        assert here.isdisjoint(threads.values())


def test_an_environment_that_may_never_end_is_refused_before_a_step(tmp_path):
    endless = (*ONLINE, "online.env=Endless-v0")
    with pytest.raises(UserError, match="'Endless-v0' has no step limit.*online.env"):
        fit(tmp_path / "r", *endless)
    assert not list(tmp_path.glob("r/*.csv"))


def test_normalize_obs_is_refused_without_data(tmp_path):
    with pytest.raises(UserError, match="normalize_obs=true: online=explore has no data"):
        fit(tmp_path / "r", *ONLINE, "trainer.normalize_obs=true")


def test_a_buffer_that_grows_is_the_agents_own_at_every_step(tmp_path, monkeypatch):
    """The paper's concurrent setting: the learner never sees what is not there yet."""
    cfg = compose("dataset.num_steps=2000", "trainer.batch_size=8", "trainer.concurrent_from=50",
                  "algo=ddpg")  # fmt: skip
    data = load_pendulum(num_steps=2000)
    seen = []
    gather = TransitionTable.gather

    def spy(self, indices):
        seen.extend(indices.amax(-1).tolist())
        return gather(self, indices)

    monkeypatch.setattr(TransitionTable, "gather", spy)
    engine_of([cfg], data).advance(60)
    assert len(seen) == 60
    assert all(largest < 50 + step for step, largest in enumerate(seen))
    assert max(seen) >= 50


def test_concurrent_from_beyond_the_data_set_is_refused(tmp_path):
    with pytest.raises(UserError, match="concurrent_from=3000: the data set has 2000 transitions"):
        fit(tmp_path / "r", "dataset.num_steps=2000", "trainer.concurrent_from=3000")


def test_a_learning_rate_schedule_ends_with_the_last_gradient_step(tmp_path):
    fit(tmp_path, *ONLINE, "actor_optim.schedule=linear", "actor_optim.final_lr_fraction=0.5")
    actor = checkpoint(tmp_path)["engine"]["algorithm"]["_extra_state"]["actor"]
    (group,) = actor["optimizer"]["param_groups"]
    assert (actor["num_steps"], group["lr"]) == (180, 0.5 * compose(*ONLINE).actor_optim.lr)


def test_concurrent_from_is_refused_for_an_agent_that_explores(tmp_path):
    with pytest.raises(UserError, match="concurrent_from=5: online=explore collects its data"):
        fit(tmp_path / "r", *ONLINE, "trainer.concurrent_from=5")


def test_reports_read_runs_that_explore(tmp_path):
    fit(tmp_path / "r", *ONLINE, "trainer.num_steps=120")
    runs = load_runs(str(tmp_path / "r"))
    assert runs.runs["dataset"].tolist() == ["online/Pendulum-v1"]


def test_compiled_steps_leave_both_cores_to_xla():
    # torch's threads spin after each action, on the cores that XLA's gradient step needs
    cfg = compose(*ONLINE, "trainer.engine=xla")
    engine = engine_of([cfg], explore("Pendulum-v1", start_steps=60, noise_std=0.3), engine="xla")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        engine.advance(60)
        assert torch.get_num_threads() == 2
        engine.advance(10)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
