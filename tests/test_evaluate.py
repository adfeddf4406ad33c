"""bcq_exp evaluate: a trained run anew, on film, and what it refuses."""

import json
import re
import shutil

import gymnasium as gym
import imageio.v3 as iio
import numpy as np
import pytest
import torch

from bcq_exp.errors import UserError
from bcq_exp.training import restore, video
from bcq_exp.training.evaluation import Evaluator
from tests.commands import ANY_DATA, tree
from tests.forked import forked


def evaluate(*args, cwd):
    return forked(*args, cwd=cwd, module="bcq_exp.evaluate")


def test_a_run_of_a_sweep_is_named_as_its_folder_is(trained, tmp_path):
    name = "multirun/s/algo.lmbda=0.5,it's,seed=0"
    shutil.copytree(trained, tmp_path / name)
    done = evaluate(f"run={name}", "num_episodes=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"saved   {name}/evaluation_1_episodes" in done.stdout
    (tmp_path / name / "checkpoint.pt").unlink()  # the previous one is used
    done = evaluate(f"run={name}", "num_episodes=1", cwd=tmp_path)
    assert re.match(r"step    \d+ of 60: the run is not finished\n", done.stdout), done.stdout


def test_returns_are_printed_and_saved_and_an_episode_filmed(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "multirun" / "r")
    before = tree(run)
    done = evaluate("run=multirun/r", "num_episodes=3", "seed=50", "video=film/a.gif", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    restored = restore.load_run(trained, "cpu")
    results = Evaluator(restored.make_env, 3, seed=50).evaluate(restored.agent)
    printed = [float(x) for x in re.search(r"return  (\S+) ± (\S+) over 3", done.stdout).groups()]
    assert printed == pytest.approx([results.return_mean, results.return_std], abs=0.051)
    assert done.stdout.startswith("step    60\n")
    assert "length  200 steps" in done.stdout
    assert (
        f"lowest  {results.returns.min():.1f}   highest {results.returns.max():.1f}" in done.stdout
    )
    saved = json.loads((run / "evaluation_3_episodes_seed_50.json").read_text())
    np.testing.assert_allclose(saved["returns"], results.returns, rtol=1e-6)
    assert (saved["step"], saved["seed"], saved["lengths"]) == (60, 50, [200] * 3)
    means = [saved["return_mean"], saved["return_std"], saved["length_mean"]]
    assert means == pytest.approx([results.return_mean, results.return_std, 200])
    frames = iio.imread(tmp_path / "film" / "a.gif", index=None)
    assert f"video   film/a.gif ({200} frames of the first episode)" in done.stdout
    assert len(frames) > 50  # a GIF joins equal neighbours
    assert len({frame.tobytes() for frame in frames}) > 20  # and it moves
    after = tree(run)
    assert {name: after[name] for name in before} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["film", "multirun"]


OWN = "tests.own.envs:own/Pendulum-v0"


def test_a_run_whose_environment_was_registered_with_a_class(trained, tmp_path):
    id = json.loads((trained / "summary.json").read_text())["dataset"]["id"]
    data = ("dataset=minari", f"dataset.id={id}", f"dataset.env={OWN}")
    brief = ("trainer.num_steps=4", "trainer.eval_every=4", "name=own")
    done = forked(*data, *ANY_DATA, *brief, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for given in (("trust=true",), (f"env={OWN}",)):
        done = evaluate("run=multirun/own", "num_episodes=2", *given, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "length  20 steps" in done.stdout
    refused = evaluate("run=multirun/own", "num_episodes=2", cwd=tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert "'own/Pendulum-v0' is not registered with Gymnasium" in refused.stderr
    remedy = "; set env to 'module:id', or trust=true if you trust the run's folder\n"
    assert refused.stderr.endswith(remedy)


def test_another_environment_is_evaluated_in_by_its_id(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation_*"))
    done = evaluate("run=run", "num_episodes=1", f"env={OWN}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (saved,) = run.glob("evaluation_*.json")
    assert saved.stem == "evaluation_1_episodes_seed_2000_in_tests-own-envs-own-Pendulum-v0"
    assert json.loads(saved.read_text())["env"] == OWN
    filmed = restore.load_run(run, "cpu").env_maker("Pendulum-v1")(render_mode="rgb_array")
    assert filmed.render_mode == "rgb_array"
    unknown = evaluate("run=run", "env=Nope-v0", cwd=tmp_path)
    assert unknown.stderr.startswith(
        "error: environment 'Nope-v0' is not registered with Gymnasium"
    )
    assert "; set env to an id it knows, or to 'module:id'\n" in unknown.stderr
    refused = evaluate("run=run", "env=MountainCarContinuous-v0", cwd=tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert "the agent was trained with (3,)" in refused.stderr


MISTAKES = [
    (["run=multirun/none"], "run=multirun/none: contains no checkpoint.pt"),
    (["run=x", "num_episodes=0"], "num_episodes=0: must be an integer at least 1"),
    (["run=x", "video=film.avi"], "video=film.avi: must be a path ending in .gif or .mp4"),
    (["run=x", "device=tpu"], "device=tpu: must be auto, cpu"),
    ([], "the following arguments are required: run; see --help"),
]


@pytest.mark.parametrize(("args", "message"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_a_mistake_is_one_line_with_status_2(args, message, tmp_path):
    done = evaluate(*args, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_film_that_cannot_be_written_is_one_line(trained, tmp_path):
    (tmp_path / "a.gif").mkdir()
    done = evaluate(f"run={trained}", "num_episodes=1", "video=a.gif", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "error: video=a.gif: cannot be written ([Errno 21] Is a directory: " in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_key_of_a_missing_device_is_named_in_the_error(trained):
    for load in (restore.load_run, restore.load_policy):
        with pytest.raises(UserError, match="device=cuda: this machine has 0 CUDA devices"):
            load(trained, "cuda")


def test_a_device_is_a_name_or_torchs_own(trained):
    for load in (restore.load_run, restore.load_policy):
        load(trained, torch.device("cpu"))
        with pytest.raises(UserError, match="^device=mps: must be auto, cpu, cuda or cuda:N$"):
            load(trained, "mps")


def test_a_film_that_cannot_be_drawn_names_mujoco_gl(tmp_path, monkeypatch):
    def make_env(**kwargs):
        env = gym.make("InvertedPendulum-v5", **kwargs)
        monkeypatch.setattr(env.unwrapped, "render", lambda: 1 / 0)
        return env

    for backend, hints in ((None, True), ("egl", False)):
        monkeypatch.delenv("MUJOCO_GL", raising=False)
        if backend:
            monkeypatch.setenv("MUJOCO_GL", backend)
        with pytest.raises(UserError, match="cannot be drawn here") as refused:
            video.film(np.zeros((1, 1)), make_env, tmp_path / "a.gif", 0)
        assert ("MUJOCO_GL=egl" in str(refused.value)) == hints
