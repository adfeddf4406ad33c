"""Discrete actions from a recording to the report, by the command line."""

import json

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete

from bcq_exp import load_policy
from bcq_exp.analysis import load_runs
from bcq_exp.data.datasets import load_minari
from bcq_exp.training import algorithms, restore
from bcq_exp.training.record import RunRecord
from tests.commands import ANY_TASK, CONF, algorithm_of, compose, fit, spec_of
from tests.forked import forked

ALGORITHMS = algorithms.LEARN[Discrete]
LOSSES = {
    "discrete_bcq": ["critic_loss", "imitator_loss", "q_mean", "target_q_mean", "allowed_share"],
    "dqn": ["critic_loss", "q_mean", "target_q_mean"],
    "bc": ["actor_loss"],
}
DATA = ["dataset=minari", "dataset.id=my/pole-v0", "dataset.download=false"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a data set of CartPole, and a run of every algorithm on it."""
    home = tmp_path_factory.mktemp("discrete")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(home / "minari"))
        words = ("id=my/pole-v0", "env=CartPole-v1", "num_steps=3000", "random_action_prob=0.5")
        done = forked(*words, module="bcq_exp.collect", cwd=home)
        assert done.returncode == 0, done.stderr
        for algo in ALGORITHMS:
            fit(home / "multirun" / algo, *ANY_TASK, *DATA, f"algo={algo}")
        yield home


def test_each_algorithm_is_trained_evaluated_and_compared(home):
    for algo in ALGORITHMS:
        record = RunRecord(home / "multirun" / algo)
        assert list(record.rows("train")[0]) == ["step", *LOSSES[algo]]
        assert [row["step"] for row in record.rows("eval")] == [30, 60]
        assert record.summary()["status"] == "completed"
    runs = load_runs(*(home / "multirun" / algo for algo in ALGORITHMS))
    assert len(runs.groups()) == len(ALGORITHMS)
    places = (f"multirun/{algo}" for algo in ALGORITHMS)
    done = forked(*places, module="bcq_exp.compare", cwd=home)
    assert done.returncode == 0, done.stderr


def test_a_run_is_evaluated_again_and_filmed(home):
    run = home / "multirun" / "discrete_bcq"
    args = (f"run={run}", "num_episodes=2", "video=a.gif")
    done = forked(*args, module="bcq_exp.evaluate", cwd=home)
    assert done.returncode == 0, done.stderr
    saved = json.loads((run / "evaluation_2_episodes_seed_2000.json").read_text())
    restored = restore.load_run(run, "cpu")
    env = restored.make_env()
    obs, _ = env.reset(seed=2000)
    total, ended = 0.0, False
    while not ended:
        act, _ = restored.agent.predict(obs)
        obs, reward, terminated, truncated, _ = env.step(act)
        total, ended = total + reward, terminated or truncated
    assert saved["returns"][0] == total
    assert f"video   a.gif ({int(total)} frames" in done.stdout


def test_estimates_are_of_the_action_taken(home):
    for algo in ALGORITHMS:
        agent = load_policy(home / "multirun" / algo, "cpu")
        obs = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
        values = [agent.value(obs, np.full(9, act)) for act in (0, 1)]
        if algo == "bc":
            assert values == [None, None]
        else:
            with torch.no_grad():
                q = agent.policy.critic(torch.as_tensor(obs)).numpy()
            np.testing.assert_allclose(np.stack(values, 1), q, rtol=1e-5)


def test_the_environments_numbers_start_where_its_space_does(home):
    data = load_minari("my/pole-v0", download=False)
    object.__setattr__(data, "action_space", Discrete(2, start=5))
    for algo in ALGORITHMS:
        algorithm = algorithm_of(compose(f"algo={algo}"), data.observation_space, data.action_space)
        policy, obs = algorithm.policy, data.transitions.obs
        act = policy.predict(obs)[0]
        assert set(act) == {5, 6}
        index = policy.action_probabilities(obs).argmax(1)
        assert (index.numpy() + 5 == act).all()
        if algo != "bc":
            best = algorithm.value(policy.as_tensor(obs), index[:, None])
            both = algorithm.networks.critic(policy.as_tensor(obs))
            assert (best == both.gather(1, index[:, None])[:, 0]).all()


def test_a_stopped_run_resumes_bitwise(home, tmp_path):
    given = (*ANY_TASK, *DATA, "algo=discrete_bcq", "trainer.eval_episodes=0")
    fit(tmp_path / "whole", *given)
    fit(tmp_path / "parts", *given, "trainer.num_steps=20")
    fit(tmp_path / "parts", *given)
    whole, halves = (tmp_path / name / "train.csv" for name in ("whole", "parts"))
    assert whole.read_text() == halves.read_text()


REFUSED = {
    (
        "algo=bcq",
    ): "algo: BCQ does not support the action space Discrete(2); choose algo=discrete_bcq, bc or",
    ("algo=bc", "policy.action_scaling=true"): "policy.action_scaling=true: actions of Discrete(2)",
    ("algo=discrete_bcq", "algo.threshold=2"): "algo.threshold=2.0: must be a number in [0, 1]",
    ("algo=discrete_bcq", "dataset.env=Pendulum-v1"): "but environment 'Pendulum-v1'",
}


@pytest.mark.parametrize("arguments", REFUSED, ids=" ".join)
def test_a_mistake_is_one_line(arguments, home, tmp_path):
    done = forked(*ANY_TASK, *DATA, *arguments, "name=x", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert REFUSED[arguments] in done.stderr
    assert RunRecord(tmp_path / "multirun" / "x").summary() is None


def test_continuous_actions_and_noise_are_refused(home, tmp_path):
    done = forked(*ANY_TASK, "dataset.num_steps=2000", "algo=discrete_bcq", "name=x", cwd=tmp_path)
    assert done.returncode == 2
    assert (
        "algo: DiscreteBCQ does not support the action space Box(-2.0, 2.0, (1,), float32); choose"
        in (done.stderr)
    )
    words = ("id=my/noisy-v0", "env=CartPole-v1", "noise_std=0.1")
    done = forked(*words, module="bcq_exp.collect", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "noise_std=0.1: the environment's actions are Discrete(2); use random" in done.stderr
    agent = ("online=explore", "online.env=CartPole-v1", "online.start_steps=0")
    done = forked(*ANY_TASK, *agent, "name=x", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "online.env=CartPole-v1: online=explore needs continuous actions" in done.stderr


def test_the_choices_that_messages_name_are_those_that_learn_the_actions():
    for space, names in algorithms.LEARN.items():
        learns = {
            path.stem
            for path in (CONF / "algo").glob("*.yaml")
            if space
            in algorithms.algorithm_class(
                spec_of(compose(f"algo={path.stem}")).algorithm
            ).action_spaces
        }
        assert set(names) == learns


@pytest.mark.slow
def test_discrete_bcq_exceeds_the_behaviour(home, tmp_path):
    settings = ("algo.gamma=0.99", "trainer.num_steps=10000", "trainer.batch_size=64")
    evaluated = ("trainer.eval_every=10000", "trainer.eval_episodes=10", "trainer.log_every=1000")
    given = ("algo=discrete_bcq", "trainer.checkpoint_every=10000")
    returned = fit(tmp_path / "r", *ANY_TASK, *DATA, *given, *settings, *evaluated)
    assert returned > 1.5 * load_minari("my/pole-v0", download=False).behaviour_return
    assert load_policy(tmp_path / "r").predict(np.zeros(4))[0] in (0, 1)
