"""The W&B workspace as the server would be sent it."""

import json

import pytest

from bcq_exp.internals import workspace_values
from bcq_exp.wandb_workspace import Content, workspace
from tests.analysis.made_up import make_grid
from tests.forked import forked

pytest.importorskip("wandb_workspaces")


def test_the_specification_has_every_panel_and_the_swept_keys(tmp_path):
    make_grid(tmp_path / "s")
    (tmp_path / "s" / "multirun.yaml").touch()
    done = forked(
        "project=p",
        "entity=e",
        "runs=s",
        "--dry-run",
        module="bcq_exp.wandb_workspace",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    spec = json.loads(done.stdout)
    text = json.dumps(spec)
    for kind in ("Run History Line Plot", "Parallel Coordinates Plot", "Parameter Importance"):
        assert kind in text
    assert "Run Comparer" in text
    for metric in ("eval/return_mean", "train/kl_loss", "train/latent_clip_fraction"):
        assert metric in text
    (runs,) = spec["spec"]["section"]["runSets"]
    assert {each["name"] for each in runs["grouping"]} == {"algo.value.lmbda", "algo.value.tau"}
    (only,) = runs["filters"]["filters"]  # other sweeps of the project would be averaged in
    assert (only["key"]["name"], only["op"], only["value"]) == ("group", "IN", ["s"])
    assert "num_sampled_action" not in text


def test_algorithms_are_grouped_by_their_class():
    content = Content(["algo._target_"], ["vae_loss"], [])
    (runs,) = workspace_values(workspace("p", "e", "w", content))["spec"]["section"]["runSets"]
    assert [each["name"] for each in runs["grouping"]] == ["algo.value._target_"]
    assert runs["filters"]["filters"] == []  # without runs, all of the project


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["entity=e"], "project=...: give the W&B project"),
        (["project=a/b"], r"project=a/b: must be 1 to 128 characters, none of / \ # ? %"),
        (["project=p", "x"], "x: no runs found"),
    ],
)
def test_mistakes_are_one_line(arguments, said, tmp_path):
    done = forked(*arguments, "--dry-run", module="bcq_exp.wandb_workspace", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert said in done.stderr
