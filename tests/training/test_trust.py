"""A stranger's folder runs none of its own code."""

import json
import shutil

import numpy as np
import pytest
import torch

from bcq_exp import load_policy
from bcq_exp.data.env_specs import parse_spec
from bcq_exp.data.transitions import DataError
from bcq_exp.errors import UserError
from bcq_exp.training import restore
from bcq_exp.training.evaluation import Evaluator
from tests.forked import forked
from tests.same import checkpoint


@pytest.fixture
def folder(trained, tmp_path):
    """A run of someone else's; ``touched`` in it is what their code would make."""
    return shutil.copytree(trained, tmp_path / "stranger")


def spoiled(folder, change):
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)
    change(saved)
    torch.save(saved, folder / "checkpoint.pt")


def spec_of(saved, **changes):
    spec = json.loads(saved["environment"]["spec"]) | changes
    saved["environment"]["spec"] = json.dumps(spec)


WRAPPER = {"name": "W", "entry_point": "subprocess:Popen", "kwargs": {}}
VIDEO = {
    "name": "RecordVideo",
    "entry_point": "gymnasium.wrappers.rendering:RecordVideo",
    "kwargs": {"video_folder": "film"},
}
CONFIGS = {
    "a target": lambda c, t: c["actor"].update(_target_="pathlib.Path.touch"),
    "a nested target": lambda c, t: c["actor"].update(
        hidden_sizes={"_target_": "pathlib.Path.touch", "self": t}
    ),
    "one in a list": lambda c, t: c["critic"].update(
        hidden_sizes=[{"_target_": "pathlib.Path.touch", "self": t}]
    ),
    "one in a tuple": lambda c, t: c["critic"].update(
        hidden_sizes=({"_target_": "pathlib.Path.touch", "self": t},)
    ),
    "one of ours in a node below": lambda c, t: c["critic"].update(
        hidden_sizes={"_target_": c["critic"]["_target_"]}
    ),
    "a module": lambda c, t: c["actor"].update(_target_="theirs.Actor"),
    "an algorithm": lambda c, t: c["algo"].update(_target_="subprocess.Popen"),
    "what ours import": lambda c, t: c["actor"].update(
        _target_="bcq_exp.algorithm.networks.torch.os.system"
    ),
    "a class that ours import": lambda c, t: c["actor"].update(
        _target_="bcq_exp.algorithm.networks.torch.nn.Identity"
    ),
    "a class that is missing": lambda c, t: c["actor"].update(
        _target_="bcq_exp.algorithm.networks.Missing"
    ),
    "a function of ours": lambda c, t: c["actor"].update(
        _target_="bcq_exp.algorithm.networks.concatenated"
    ),
    "positions": lambda c, t: c["actor"].update(_args_=["touch"]),
    "an optimizer": lambda c, t: c["actor_optim"].update(_target_="os.system"),
    "an interpolation": lambda c, t: c["actor"].update(phi="${oc.env:HOME}"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_that_names_other_code_is_refused(name, folder, monkeypatch):
    touched = folder / "touched"
    (folder / "theirs.py").write_text(f"open({str(touched)!r}, 'w')")
    monkeypatch.syspath_prepend(folder)
    spoiled(folder, lambda saved: CONFIGS[name](saved["config"], str(touched)))
    with pytest.raises(UserError) as refused:
        restore.load_run(folder, "cpu")
    assert "trust=true" in str(refused.value) and "\n" not in str(refused.value)
    assert not touched.exists()


def test_an_entry_point_of_a_registered_environment_is_the_registered_one(folder):
    spoiled(folder, lambda saved: spec_of(saved, entry_point="subprocess:check_output"))
    spoiled(folder, lambda saved: saved["config"]["logger"].update(group=""))  # no code either
    run = restore.load_run(folder, "cpu")
    evaluator = Evaluator(run.make_env, 1, seed=0)
    assert evaluator.evaluate(run.agent).lengths.tolist() == [200]


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "Mine-v0", "entry_point": "subprocess:check_output"},
        {"additional_wrappers": [WRAPPER]},
        {"additional_wrappers": [VIDEO]},
    ],
    ids=["an environment", "a wrapper", "one that writes files"],
)
def test_code_that_is_not_known_to_be_harmless_is_refused(changes, folder, tmp_path):
    spoiled(folder, lambda saved: spec_of(saved, **changes))
    done = forked(f"run={folder}", "num_episodes=1", cwd=tmp_path, module="bcq_exp.evaluate")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "code named in a file is not run" in done.stderr and "trust=true" in done.stderr
    assert not (tmp_path / "film").exists()


@pytest.mark.parametrize("module", ["common", "transform_reward"])  # of another version, of this
def test_a_wrapper_that_only_changes_what_passes_is_made(module, folder):
    entry_point = f"gymnasium.wrappers.{module}:ClipReward"
    wrapper = {"name": "ClipReward", "entry_point": entry_point, "kwargs": {"max_reward": -20.0}}
    drawing = {"render_mode": "human"}
    spoiled(folder, lambda s: spec_of(s, additional_wrappers=[wrapper], kwargs=drawing))
    run = restore.load_run(folder, "cpu")
    assert Evaluator(run.make_env, 1, seed=0).evaluate(run.agent).return_mean <= -20 * 200
    assert run.make_env().render_mode is None


def test_a_trusted_folder_may_name_any_code(folder):
    spoiled(
        folder, lambda saved: spec_of(saved, id="Mine-v0", max_episode_steps=7, reward_threshold=1)
    )
    run = restore.load_run(folder, "cpu", trusted=True)
    assert Evaluator(run.make_env, 1, seed=0).evaluate(run.agent).lengths.tolist() == [7]
    spoiled(folder, lambda saved: saved["engine"].update(collected={"rew": torch.zeros(60)}))
    _, make_env, _ = restore.load_collected(folder, trusted=True)
    assert make_env().spec.id == "Mine-v0"
    with pytest.raises(DataError, match="trust=true"):
        restore.load_collected(folder)[1]()
    spoiled(folder, lambda saved: saved["config"]["actor"].update(_convert_="all"))
    assert load_policy(folder, "cpu", trusted=True).predict(np.zeros(3))[0].shape == (1,)
    with pytest.raises(UserError, match="trust=true"):
        load_policy(folder, "cpu")
    config = checkpoint(folder)["config"]  # the user's own
    assert restore.load_run(folder, "cpu", config=config).step == 60
    with pytest.raises(UserError, match="belongs to another configuration"):
        restore.load_run(folder, "cpu", config={**config, "seed": 7})
    spoiled(folder, lambda saved: spec_of(saved, entry_point=None))  # a class is not stored
    with pytest.raises(UserError, match="not stored; set env to 'module:id'") as refused:
        restore.load_run(folder, "cpu", trusted=True).make_env()
    assert "trust=true" not in str(refused.value)


WRONG = {
    "no configuration": lambda saved: saved.pop("config"),
    "an empty engine": lambda saved: saved.update(engine={}),
    "a word for a configuration": lambda saved: saved.update(config="x"),
    "no environment": lambda saved: saved.update(environment=None),
    "other sizes": lambda saved: saved["config"]["actor"].update(hidden_sizes=[3]),
    "a negative size": lambda saved: saved["environment"].update(obs_dim=-3),
    "a deep specification": lambda saved: saved["environment"].update(spec="[" * 100_000),
    "another environment": lambda saved: spec_of(saved, id="MountainCarContinuous-v0"),
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_a_checkpoint_that_is_whole_and_wrong_is_one_line(change, folder):
    spoiled(folder, change)
    (folder / "checkpoint.previous.pt").unlink()
    with pytest.raises(UserError) as caught:
        restore.load_run(folder, "cpu").make_env()
    assert "\n" not in str(caught.value)


def test_a_data_sets_specification_is_read_the_same_way():
    with pytest.raises(DataError, match="set dataset.env to 'module:id'"):
        parse_spec("x", json.dumps({"id": "Mine-v0", "entry_point": "subprocess:check_output"}))
    spec = parse_spec("x", json.dumps({"id": "Pendulum-v1", "entry_point": "os:system"}))
    assert spec.entry_point == "gymnasium.envs.classic_control.pendulum:PendulumEnv"
