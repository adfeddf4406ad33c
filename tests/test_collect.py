"""bcq_exp collect: records what was asked for, by whom it was asked for."""

import json
import re
import shutil
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest

from bcq_exp.collect import _converted, _trained
from bcq_exp.data import minari_store
from bcq_exp.data.datasets import load_minari
from bcq_exp.errors import CannotWrite, UserError
from bcq_exp.training import restore
from bcq_exp.training.record import RunRecord
from tests.commands import compose
from tests.forked import forked


@pytest.fixture
def collect(tmp_path, own_data):
    """The command, with data sets in the test's own folder."""
    return partial(forked, cwd=tmp_path, module="bcq_exp.collect", env=own_data)


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return lambda id: load_minari(id, download=False)


def printed(done):
    assert done.returncode == 0, done.stderr
    assert "━" not in done.stdout  # a bar is for terminals
    return dict(re.findall(r"^(id|steps|episodes|return) +(.*)$", done.stdout, re.MULTILINE))


def test_the_scripted_behaviour_and_an_id_that_is_taken(collect, load):
    args = ("id=my/set-v0", "env=Pendulum-v1", "num_steps=450")
    shown = printed(collect(*args, "seed=3"))
    data = load("my/set-v0")
    mean, std = data.episode_returns.mean(), data.episode_returns.std()
    assert shown == {
        "id": "my/set-v0",
        "steps": "450",
        "episodes": "3, last one cut",
        "return": f"{mean:.1f} ± {std:.1f}",
    }
    assert data.episode_lengths.tolist() == [200, 200, 50]
    assert np.flatnonzero(data.transitions.truncated).tolist() == [199, 399, 449]
    assert not data.transitions.terminated.any()
    again = collect(*args)
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1
    assert "my/set-v0" in again.stderr
    assert load("my/set-v0").content_hash == data.content_hash
    printed(collect(*args, "seed=4", "overwrite=true"))
    assert load("my/set-v0").content_hash != data.content_hash


def test_a_data_set_that_another_process_makes_is_left_to_it(collect, load):
    args = ("id=my/set-v0", "env=Pendulum-v1", "num_steps=200")
    with minari_store.reserve("my/set-v0"):
        done = collect(*args)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "another process is recording it; wait for it" in done.stderr
    printed(collect(*args))
    assert len(load("my/set-v0").transitions) == 200


def test_observations_that_float32_makes_stand_still_are_warned_of_once(tmp_path, own_data):
    root = str(Path(__file__).parents[1])
    run = partial(forked, cwd=tmp_path, env={**own_data, "PYTHONPATH": root})
    clock = "tests.own.envs:own/Clock-v0"
    note = "'{}': obs[0]: float32 cannot represent 100% of its changes from one step to the next"
    words = ("id=my/clock-v0", f"env={clock}", "behaviour=random", "num_steps=60")
    done = run(*words, module="bcq_exp.collect")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count(note.format("my/clock-v0")) == 1
    brief = ("trainer.num_steps=2", "trainer.eval_episodes=0", "networks=small", "logger=none")
    agent = ("algo=ddpg", "online=explore", f"online.env={clock}", "online.start_steps=1")
    done = run(*agent, *brief)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count(note.format("own/Clock-v0")) == 1


def test_a_trained_runs_policy_with_and_without_noise(collect, load, trained):
    run = ("behaviour=run", f"run={trained}", "num_steps=60", "seed=5")
    printed(collect("id=my/plain-v0", *run))
    printed(collect("id=my/noisy-v0", *run, "noise_std=0.3", "random_action_prob=0.3"))
    plain, noisy = load("my/plain-v0").transitions, load("my/noisy-v0").transitions
    behave = restore.as_behaviour(restore.load_run(trained, "cpu").agent, seed=5)
    expected = [behave(obs, np.random.default_rng(0)) for obs in plain.obs]
    np.testing.assert_allclose(plain.act, expected, atol=1e-5)
    assert np.abs(noisy.act - plain.act).max() > 0.5
    assert np.array_equal(noisy.obs[0], plain.obs[0])
    assert load("my/plain-v0").env_spec.id == "Pendulum-v1"


def test_the_step_of_a_failed_runs_agent_is_its_checkpoints(collect, load, trained, tmp_path):
    record = RunRecord(shutil.copytree(trained, tmp_path / "r"))
    saved = record.summary()["step"]
    record.write_summary({**record.summary(), "status": "failed", "step": saved + 15})
    printed(collect("id=my/set-v0", "behaviour=run", f"run={record.folder}", "num_steps=20"))
    load("my/set-v0")
    agent = minari_store.provenance("my/set-v0")["agent"]
    assert agent == {**restore.origin(trained), "step": saved}


ONLINE = (
    *("algo=ddpg", "online=explore", "online.env=Pendulum-v1", "online.start_steps=100"),
    *("trainer.num_steps=450", "trainer.batch_size=8", "trainer.eval_every=450"),
    *("trainer.eval_episodes=1", "logger=none", "name=agent"),
)


@pytest.mark.slow
def test_the_final_buffer_and_the_final_policy_of_an_online_agent(
    collect, load, tmp_path, own_data
):
    done = forked(*ONLINE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "DDPG, last" in done.stdout and "behaviour's return" not in done.stdout
    buffer = ("behaviour=run", "record=buffer", "run=multirun/agent")
    shown = printed(collect("id=my/buffer-v0", *buffer, "num_steps=450"))
    assert (shown["steps"], shown["episodes"]) == ("450", "3, last one cut")
    steps, *_ = restore.load_collected(tmp_path / "multirun" / "agent")
    metadata = json.loads(next(tmp_path.glob("minari/my/buffer-v0/data/metadata.json")).read_text())
    assert "100 random steps, then noise_std 0.1, seed 0" in metadata["description"]
    data = load("my/buffer-v0")
    for name in ("obs", "act", "rew", "terminated", "obs_next"):
        np.testing.assert_array_equal(getattr(data.transitions, name), steps[name])
    assert np.flatnonzero(data.transitions.truncated).tolist() == [199, 399, 449]
    assert data.env_spec.id == "Pendulum-v1"
    shown = printed(collect("id=my/part-v0", *buffer, "num_steps=250"))
    assert (shown["steps"], shown["episodes"]) == ("250", "2, last one cut")
    np.testing.assert_array_equal(load("my/part-v0").transitions.obs, steps["obs"][:250])
    more = collect("id=my/more-v0", *buffer, "num_steps=451")
    assert (more.returncode, more.stderr.count("\n")) == (2, 1), more.stderr
    assert (
        "num_steps=451: must be at most the 450 steps of the run in multirun/agent" in more.stderr
    )
    expert = ("id=my/expert-v0", "behaviour=run", "run=multirun/agent", "num_steps=200")
    printed(collect(*expert))
    trained = forked(
        "dataset=minari", "dataset.id=my/buffer-v0", "trainer.num_steps=20", "logger=none",
        "trainer.eval_every=20", "trainer.eval_episodes=1", "name=offline", cwd=tmp_path,
        env=own_data,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    compared = forked("multirun/agent", cwd=tmp_path, module="bcq_exp.compare")
    assert compared.returncode == 0, compared.stderr
    assert "behaviour's return" not in compared.stdout


def test_an_agent_that_would_never_learn_is_refused(collect):
    done = collect("id=my/x-v0", "env=Pendulum-v1", "setting=imitation", "agent.num_steps=300")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "agent.num_steps=300: must be above agent.start_steps=25000, the steps" in done.stderr


def test_a_run_that_collected_nothing_has_no_buffer(collect, trained):
    for args, said in (
        ((f"run={trained}",), "collected no data; give a run with online=explore"),
        ((), "behaviour=run: needs the folder of a run"),
        ((f"run={trained}", "noise_std=0.3"), "are those of the run; leave them out"),
        ((f"run={trained}", "behaviour=random"), "only used with behaviour=run, not random"),
        (("behaviour=scripted", "env=Pendulum-v1"), "record=buffer: needs behaviour=run"),
    ):
        done = collect("id=my/x-v0", "behaviour=run", "record=buffer", *args)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert said in done.stderr


def write_d4rl(folder: Path, terminals: np.ndarray) -> tuple[str, ...]:
    """Write a D4RL file of 60 steps with a jump after every second; return words that store it."""
    obs = np.arange(60, dtype=np.float32)[:, None]
    with h5py.File(folder / "log.hdf5", "w") as file:
        file["observations"], file["next_observations"] = obs, obs + 1 + 1000 * (obs % 2)
        file["actions"], file["rewards"], file["terminals"] = obs / 60, obs[:, 0], terminals
    path = f"dataset.path={folder / 'log.hdf5'}"
    return ("id=my/log-v0", "dataset=d4rl_hdf5", path, "dataset.action_bounds=[-1,1]")


def test_the_disk_needs_room_for_every_episode(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    usage = shutil.disk_usage(tmp_path)._replace(free=2**19)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    cfg = compose(*write_d4rl(tmp_path, np.arange(60) % 2 == 1), config_name="collect")
    with pytest.raises(CannotWrite, match="No space left on device: about 0.9 MiB are needed"):
        _converted(cfg)


def test_steps_that_do_not_follow_each_other_are_stored_as_they_are(collect, load, tmp_path):
    done = collect(*write_d4rl(tmp_path, np.zeros(60, bool)))
    assert (done.returncode, done.stderr) == (0, "")
    assert "so episodes end at the 29 such steps, truncated" in done.stdout
    assert "episodes  30\n" in done.stdout
    stored = load("my/log-v0").transitions
    assert stored.obs_next[:, 0].tolist() == [i + 1 + 1000 * (i % 2) for i in range(60)]
    assert np.flatnonzero(stored.truncated).tolist() == [*range(1, 60, 2)]


AGENT = (
    *("env=Pendulum-v1", "seed=3", "agent.num_steps=300", "agent.start_steps=100"),
    *("agent.networks=small", "agent.eval_every=300", "agent.logger=none"),
)


def test_an_agent_of_more_steps_than_asked_for_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "multirun" / "ddpg_Pendulum-v1_noise0.1_seed3"
    folder.mkdir(parents=True)
    cfg = compose(*AGENT, "id=my/x-v0", "behaviour=ddpg", config_name="collect")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bcq_exp.collect.run", lambda command: None)  # it is complete
    monkeypatch.setattr(RunRecord, "required_summary", lambda _: {"step": 300})
    assert _trained(cfg) == str(folder.relative_to(tmp_path))
    cfg.agent.num_steps = 299
    with pytest.raises(UserError, match=r"agent.num_steps=299: .* has taken 300 steps"):
        _trained(cfg)


@pytest.mark.slow
def test_the_papers_settings_each_in_one_command_over_one_agent(collect, load, tmp_path):
    printed(collect("id=my/imperfect-v0", "setting=imperfect", "num_steps=150", *AGENT))
    (run,) = (tmp_path / "multirun").iterdir()
    assert run.name == "ddpg_Pendulum-v1_noise0.1_seed3"
    trained = (run / "checkpoint.pt").read_bytes()
    printed(collect("id=my/concurrent-v0", "setting=concurrent", *AGENT))
    printed(collect("id=my/imitation-v0", "setting=imitation", "num_steps=200", *AGENT))
    assert (run / "checkpoint.pt").read_bytes() == trained, "one agent for all three"
    printed(collect("id=my/final-v0", "setting=final_buffer", *AGENT))
    assert {path.name for path in run.parent.iterdir()} == {
        run.name,
        "ddpg_Pendulum-v1_noise0.5_seed3",
    }
    steps, *_ = restore.load_collected(run)
    np.testing.assert_array_equal(load("my/concurrent-v0").transitions.obs, steps["obs"])
    how = {
        name: minari_store.provenance(f"my/{name}-v0")
        for name in ("imperfect", "concurrent", "imitation", "final")
    }
    noises = {name: (h["noise_std"], h["random_action_prob"]) for name, h in how.items()}
    assert noises["imperfect"] == (0.3, 0.3) and noises["imitation"] == (0.0, 0.0)
    explored = {n: h["agent"]["config"]["online"]["noise_std"] for n, h in how.items()}
    assert explored == {"imperfect": 0.1, "concurrent": 0.1, "imitation": 0.1, "final": 0.5}
    assert how["imperfect"]["seed"] == how["imperfect"]["agent"]["seed"] == 3
    assert how["imperfect"]["agent"]["step"] == 300
    assert how["imperfect"]["versions"]["gymnasium"]
    again = collect("id=my/other-v0", "setting=imitation", *AGENT, "agent.start_steps=50")
    assert (again.returncode, again.stderr.count("\n")) == (2, 1), again.stderr
    assert "holds a run with another configuration: online.start_steps" in again.stderr


@pytest.mark.slow
def test_an_agent_in_an_environment_that_a_users_module_registers_with_a_class(tmp_path, own_data):
    root = str(Path(__file__).parents[1])  # the agent's process imports tests.own.envs too
    run = partial(forked, cwd=tmp_path, env={**own_data, "PYTHONPATH": root})
    own = "tests.own.envs:own/Pendulum-v0"
    agent = (f"env={own}", *(word for word in AGENT if not word.startswith("env=")))
    record = run("id=my/own-v0", "behaviour=ddpg", "num_steps=60", *agent, module="bcq_exp.collect")
    assert printed(record)["episodes"] == "3"
    (folder,) = (tmp_path / "multirun").iterdir()
    assert folder.name == "ddpg_tests-own-envs-own-Pendulum-v0_noise0.1_seed3"
    learn = ("dataset=minari", "dataset.id=my/own-v0", "networks=small", "trainer.num_steps=20",
             "trainer.eval_every=20", "trainer.eval_episodes=2", "logger=none")  # fmt: skip
    refused = run(*learn, "name=bcq")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert "'own/Pendulum-v0' is not registered with Gymnasium" in refused.stderr
    done = run(*learn, "name=bcq", f"dataset.env={own}")
    assert done.returncode == 0, done.stderr
    for name in ("bcq", folder.name):
        words = (f"run=multirun/{name}", "num_episodes=2", "trust=true")
        done = run(*words, module="bcq_exp.evaluate")
        assert done.returncode == 0, done.stderr
        assert "length  20 steps" in done.stdout


MISTAKES = [
    (["id=my/x-v0", "dataset=pendulum", "num_steps=5"], "num_steps=5: not used with dataset=..."),
    (["id=my/x-v0", "dataset=pendulum", "env=Pendulum-v1"], "; set dataset.env"),
    (["id=my/x-v0", "env=Pendulum-v1", "setting=nope"], "there are concurrent, final_buffer, imi"),
    (["id=my/x-v0", "behaviour=ddpg"], "behaviour=ddpg: give the environment"),
    (["id=my/x-v0", "env=Nope-v0", "setting=imitation"], "Nope-v0"),
    (["id=my/x-v0"], "behaviour=scripted: give the environment"),
    (["id=my/x-v0", "behaviour=run"], "behaviour=run: needs the folder of a run"),
    (["id=my/x-v0", "behaviour=run", "run=none"], "run=none: contains no summary.json"),
    (
        ["id=my/x-v0", "env=Nope-v0", "behaviour=random"],
        "); set env to an id it knows, or to 'module:id'",
    ),
    (["id=my/x-v0", "env=Pendulum-v1", "noise_std=-1"], "noise_std=-1.0: must be a number at"),
    (["env=Pendulum-v1"], "id: has no value"),
    (
        ["id=my/x-v0", "env=Pendulum-v1", "agent.num_steps=300"],
        "agent.num_steps=300: only used with behaviour=ddpg; leave it out",
    ),
    (["id=my/x-v0", "dataset=pendulum", "agent.num_steps=3"], "agent.num_steps=3: only used with"),
]


@pytest.mark.parametrize(("args", "message"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_a_mistake_is_one_line_with_status_2_and_no_data_set(args, message, collect, tmp_path):
    done = collect(*args)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not list((tmp_path / "minari").rglob("*.hdf5"))


def test_an_agent_of_another_environment_is_refused(collect, trained, tmp_path):
    done = collect("id=my/x-v0", "behaviour=run", f"run={trained}", "env=MountainCarContinuous-v0")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "has observations (2,)" in done.stderr and "trained with (3,)" in done.stderr
    assert not list((tmp_path / "minari").rglob("*.hdf5"))
