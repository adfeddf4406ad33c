"""The command: a sweep with held-out episodes, its table and files, and mistakes."""

import json
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
import torch

from bcq_exp.selection.candidates import load_candidates, policies_actions
from bcq_exp.selection.naive import naive_estimates
from bcq_exp.sweep.state import run_states
from bcq_exp.training.record import RunRecord
from tests.commands import ANY_ALGORITHM, TINY, command, wait_until
from tests.forked import forked

HELD = ("dataset.holdout=0.25", "trainer.num_steps=30")
SWEEP = (*TINY, *HELD, "-m", "name=s", "algo.lmbda=0.5,1.0", "seed=0,1")
FAST = ("num_steps=60", "num_members=2", "hidden_sizes=[16]")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("select")
    for options in (SWEEP, (*ANY_ALGORITHM, *HELD, "name=bc", "algo=bc")):
        done = forked(*options, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    shutil.copytree(trained / "multirun", tmp_path / "multirun")
    return tmp_path


def select(*arguments, cwd):
    return forked(*arguments, module="bcq_exp.select", cwd=cwd)


def refusal(*arguments, cwd):
    done = select(*arguments, cwd=cwd)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def selected(trained, tmp_path_factory):
    """A folder in which the sweep's policies were evaluated, and what was said."""
    folder = tmp_path_factory.mktemp("selected")
    shutil.copytree(trained / "multirun", folder / "multirun")
    done = select("multirun/s", *FAST, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_the_policies_of_a_sweep_are_printed_and_written(selected):
    folder, done = selected
    assert "4 policies by fitted Q evaluation" in done.stdout
    assert "estimated from 3 held-out episodes" in done.stdout
    assert "behaviour policy, as recorded" in done.stdout
    ope = folder / "multirun" / "s" / "ope"
    policies = pd.read_csv(ope / "policies.csv")
    assert sorted(policies["run"]) == [
        f"lmbda={lmbda},seed={seed}" for lmbda in ("0.5", "1.0") for seed in (0, 1)
    ]
    assert (policies["fqe"].diff().dropna() <= 0).all()
    assert (policies["fqe_low"] <= policies["fqe"]).all()
    for row in policies.itertuples():
        last = RunRecord(folder / "multirun" / "s" / row.run).rows("eval")[-1]
        assert row.return_mean == pytest.approx(last["return_mean"])
        assert row.discounted_return == pytest.approx(last["discounted_return_mean"])
        assert row.step == last["step"] == 30 and row.td_error > 0
    content = json.loads((ope / "selection.json").read_text())
    assert {each["better"] for each in content["policies"]} <= {"yes", "no", "cannot tell"}
    behaviour = content["behaviour"]
    assert behaviour["fqe_low"] < behaviour["fqe"] < behaviour["fqe_high"]
    assert behaviour["return_mean"] < behaviour["discounted_return"] < 0  # costs, discounted
    assert content["settings"]["num_steps"] == 60
    assert all(0 <= row["support"] <= 1 for row in content["policies"])
    assert behaviour["support"] == pytest.approx(0.95, abs=0.02)
    assert "wis" not in behaviour and content["calibration"] == {}
    assert "importance sampling and doubly robust estimates are not available" in " ".join(
        done.stdout.split()
    )
    assert set(content["quality"]) == {"fqe", "fqe_low", "critic_value", "td_error"}
    assert set(content["quality"]["fqe"]) == {"spearman", "regret@1"}, "the best of 4 is in any 5"
    assert content["budget"]["fqe"]["episodes"][:2] == [0, 1]
    best = policies["return_mean"].max()
    assert content["budget"]["uniform"]["returns"][-1] == pytest.approx(best, rel=0.05)
    again = select("multirun/s", *FAST, cwd=folder)
    assert pd.read_csv(ope / "policies.csv").equals(policies)
    assert again.stdout == done.stdout


@pytest.mark.slow
def test_an_algorithm_without_a_critic_has_no_naive_estimate(folder):
    done = select("multirun/s", "multirun/bc", *FAST, "output=here", cwd=folder)
    assert done.returncode == 0, done.stderr
    policies = pd.read_csv(folder / "here" / "policies.csv").set_index("run")
    assert np.isnan(policies["critic_value"]["bc"]) and np.isfinite(policies["fqe"]["bc"])
    assert np.isfinite(policies["critic_value"].drop("bc")).all()


def test_runs_of_versions_without_holdout_are_selected_with_newer_ones(folder):
    done = forked(*TINY, "-m", "seed=0,1", "name=a", "trainer.num_steps=10", cwd=folder)
    assert done.returncode == 0, done.stderr
    record = RunRecord(folder / "multirun" / "a" / "seed=0")
    summary = record.summary()
    del summary["config"]["dataset"]["holdout"]
    record.write_summary(summary)
    done = select("multirun/a", *FAST, "num_members=1", "gamma=0.5", cwd=folder)
    assert done.returncode == 0, done.stderr
    policies = pd.read_csv(folder / "multirun" / "a" / "ope" / "policies.csv")
    assert policies[["fqe_low", "discounted_return"]].isna().all(axis=None)
    assert "±" not in done.stdout.split("─┤")[0].splitlines()[-1]
    assert "note: policies with gamma 0.99: their discounted returns are left out" in done.stdout


@pytest.mark.slow
def test_policies_of_different_numbers_of_episodes_and_sweeps(folder):
    other = [option for option in SWEEP if not option.startswith(("name=", "trainer.eval_ep"))]
    done = forked(*other, "name=t", "trainer.eval_episodes=3", cwd=folder)
    assert done.returncode == 0, done.stderr
    done = select("multirun/s", "multirun/t", *FAST, "output=both", cwd=folder)
    assert done.returncode == 0, done.stderr
    policies = pd.read_csv(folder / "both" / "policies.csv")
    assert set(policies["run"].str[:2]) == {"s/", "t/"} and policies["run"].is_unique
    content = json.loads((folder / "both" / "selection.json").read_text())
    assert "regret@5" in content["quality"]["fqe"] and content["budget"]


def test_what_limits_a_comparison_is_noted_and_damage_is_refused(folder):
    """Runs that have not ended, returns that are not known, few of them; damage is refused."""
    sweep = folder / "multirun" / "s"
    first, second, third, fourth = (sweep / state.name for state in run_states(sweep))
    for run, change in ((second, {"status": "failed"}), (third, {"status": "interrupted"})):
        record = RunRecord(run)
        record.write_summary({**record.summary(), **change})
    with np.load(first / "eval_returns.npz") as file:
        arrays = dict(file)
    np.savez(first / "eval_returns.npz", **{**arrays, "returns": arrays["returns"] * np.nan})
    done = select("multirun/s", *FAST, cwd=folder)
    assert done.returncode == 0, done.stderr
    for note in (
        "runs that have not completed (1 failed, 1 interrupted) enter with their newest checkpoint",
        "returns at the checkpoint's step are known for 3 of 4 policies",
        "with only 3 policies, intervals",
        "60 steps with tau 1 take fitted Q evaluation 10% of the way",
        "episodes end after 200 steps, where a reward still has weight 13%",
    ):
        assert note in " ".join(done.stdout.split()), note
    quality = json.loads((sweep / "ope" / "selection.json").read_text())["quality"]
    assert quality["fqe"]["spearman"]["num_policies"] == 3
    for array in (arrays["returns"][0], arrays["returns"][:, :0]):
        np.savez(first / "eval_returns.npz", **{**arrays, "returns": array, "lengths": array})
        said = refusal("multirun/s", *FAST, cwd=folder)
        assert "eval_returns.npz is damaged" in said
    np.savez(first / "eval_returns.npz", **arrays)
    (fourth / "estimates.json").write_text("[1]")
    assert "estimates.json is damaged" in refusal("multirun/s", *FAST, cwd=folder)
    (fourth / "estimates.json").unlink()
    with (fourth / "eval.csv").open("a") as file:
        file.seek(20)
        file.truncate()
    assert "eval.csv is damaged" in refusal("multirun/s", *FAST, cwd=folder)


def test_a_range_of_returns_that_the_recorded_ones_contradict(folder):
    sweep = folder / "multirun" / "s"
    _, evidence = load_candidates([sweep / state.name for state in run_states(sweep)])
    returns = evidence.returns(0.99, None)
    said = refusal("multirun/s", *FAST, "return_range=[0,1]", cwd=folder)
    assert said == (
        "error: return_range=[0,1]: must contain the mean discounted return of the recorded "
        f"episodes, {returns.mean():.6g}\n"
    )
    low, high = returns.mean() - 0.5, returns.mean() + 0.5
    done = select("multirun/s", *FAST, f"return_range=[{low},{high}]", cwd=folder)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "3 of 3 recorded episodes have discounted returns outside return_range" in said
    done = select("multirun/s", *FAST, "return_range=[-1e9,1E+9]", "horizon=200", cwd=folder)
    assert done.returncode == 0 and "return_range" not in done.stdout


def test_a_horizon_beyond_the_cut_of_the_recorded_episodes_is_refused(folder):
    assert refusal("multirun/s", *FAST, "horizon=201", cwd=folder) == (
        "error: horizon=201: must be at most 200, the transitions after which recorded episodes "
        "are cut, because later rewards are unknown\n"
    )


def test_naive_estimates_are_the_runs_own_critics(folder):
    sweep = folder / "multirun" / "s"
    candidates, evidence = load_candidates([sweep / state.name for state in run_states(sweep)][:2])
    act_next, first_act = policies_actions(candidates, evidence, 0)
    t = evidence.dataset.transitions
    found = naive_estimates(candidates, evidence, act_next, first_act)
    for k, (one, told) in enumerate(zip(candidates, found, strict=True)):
        q1 = one.agent.policy.critic
        with torch.no_grad():
            first, here, after = (
                q1(torch.tensor(obs), torch.tensor(act)).squeeze(-1).numpy()
                for obs, act in (
                    (evidence.first_obs, first_act[k]),
                    (t.obs, t.act),
                    (t.obs_next, act_next[k]),
                )
            )
        assert told["critic_value"] == pytest.approx(first.mean(), rel=1e-4)
        error = t.rew + 0.99 * (1 - t.terminated) * after - here
        assert told["td_error"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-4)


def test_what_a_shell_makes_of_a_star_is_the_sweep(folder):
    sweep = folder / "multirun" / "s"
    (sweep / "report").mkdir()
    given = sorted(str(path.relative_to(folder)) for path in sweep.iterdir())
    done = select(*given, *FAST, "output=here", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "4 policies by fitted Q evaluation" in done.stdout
    assert "no runs found" in refusal("multirun/s/report", cwd=folder)


@pytest.mark.slow
def test_a_killed_selection_resumes_bitwise(folder):
    slow = ("num_steps=3000", "num_members=2", "hidden_sizes=[16]")
    ope = folder / "multirun" / "s" / "ope"
    assert select("multirun/s", *slow, cwd=folder).returncode == 0
    whole = (ope / "policies.csv").read_bytes()
    shutil.rmtree(ope)
    words = command("multirun/s", *slow, module="bcq_exp.select")
    with subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL) as process:
        wait_until((ope / "fqe.pt").exists, process)
        process.kill()
    steps = {state["step"] for state in torch.load(ope / "fqe.pt")["runs"]}
    assert steps < {*range(300, 3000, 300)} and not (ope / "policies.csv").exists()
    assert select("multirun/s", *slow, cwd=folder).returncode == 0
    assert (ope / "policies.csv").read_bytes() == whole


def change(run, **dataset):
    record = RunRecord(run)
    summary = record.summary()
    summary["config"]["dataset"] |= dataset
    record.write_summary(summary)


def test_mistakes_are_one_line(folder):
    runs = folder / "multirun" / "s"
    assert "multirun/none: no runs found" in refusal("multirun/none", cwd=folder)
    assert "gamma=2: must be a number in [0, 1]" in refusal(
        "multirun/s", "--gamma", "2", cwd=folder
    )
    assert "num_steps=x: must be an integer at least 1" in refusal(
        "multirun/s", "--num-steps", "x", cwd=folder
    )
    done = forked(*TINY, "name=all", "trainer.num_steps=10", cwd=folder)
    assert done.returncode == 0, done.stderr
    said = refusal("multirun/s", "multirun/all", cwd=folder)
    assert "other data than" in said and "dataset.holdout (0.25 -> None)" in said
    assert not (folder / "ope").exists()
    one = runs / "lmbda=0.5,seed=0"
    (folder / "mine.py").write_text("open('touched', 'w')")
    ours, loaders = RunRecord(one).summary(), "bcq_exp.data.datasets"
    for said, hostile in {
        "dataset._target_=os.getcwd, which is custom code": {"_target_": "os.getcwd"},
        f"_target_={loaders}.np.load, which": {"_target_": f"{loaders}.np.load", "file": "x"},
        "dataset.env=mine:M-v0, which": {"_target_": f"{loaders}.load_minari", "env": "mine:M-v0"},
        "its data set cannot be loaded": {"_args_": [1]},
        "collected its own data": {"_target_": "bcq_exp.data.online.explore"},
    }.items():
        change(one, **hostile)
        assert said in refusal(str(one), cwd=folder)
        RunRecord(one).write_summary(ours)
    assert not (folder / "touched").exists()
    (folder / "file").write_text("")
    assert "output=file: must be a folder" in refusal(str(one), "--output", "file", cwd=folder)
    change(one, holdout=0.01)
    assert "dataset.holdout=0.01: holds out 0 of the 12 episodes" in refusal(str(one), cwd=folder)
    change(one, holdout=0.25)
    for path in one.glob("checkpoint*.pt"):
        path.unlink()
    assert "contains no checkpoint.pt" in refusal(str(one), cwd=folder)


def test_held_out_episodes_are_not_trained_on(trained):
    summary = RunRecord(trained / "multirun" / "bc").summary()
    assert summary["dataset"]["held_out"] == 3 and summary["dataset"]["num_episodes"] == 9
    assert summary["config"]["dataset"]["holdout"] == 0.25


def test_the_report_has_the_selection(selected, tmp_path, opened):
    folder = tmp_path
    shutil.copytree(selected[0] / "multirun", folder / "multirun")
    sweep = folder / "multirun" / "s"
    page = sweep / "report" / "index.html"
    assert forked("multirun/s", module="bcq_exp.compare", cwd=folder).returncode == 0
    shown = opened(page)
    policies = pd.read_csv(sweep / "ope" / "policies.csv")
    rows = shown.locator("#selection-table tbody tr")
    assert rows.count() == 5  # with the behaviour policy
    assert "behaviour policy" in rows.nth(0).inner_text()
    assert policies["run"][0] in rows.nth(1).inner_text()
    assert "estimated from 3 held-out episodes" in shown.inner_text("#selection-notes").lower()
    points = shown.evaluate("document.getElementById('selection-scatter').data[1]")
    assert points["x"] == pytest.approx(list(policies["discounted_return"]), rel=1e-4)
    assert points["y"] == pytest.approx(list(policies["fqe"]), rel=1e-4)
    assert not shown.locator("#selection-estimators").is_visible()
    lines = shown.evaluate("document.getElementById('selection-budget').data.map(t => t.name)")
    assert [name for name in lines if name] == [
        "starting with any policy",
        "starting with the ranking",
    ]
    assert shown.locator("#selection-quality tbody tr").count() == 4
    assert "fitted Q evaluation" in shown.inner_text("#selection-quality")
    assert "estimates are older than the runs" not in page.read_text()
    record = RunRecord(sweep / policies["run"][0])
    summary = record.summary()
    for changed, is_older in (
        ({"status": "failed", "step": summary["step"] + 1}, False),  # its checkpoint is judged
        ({"step": 60}, True),
    ):
        record.write_summary({**summary, **changed})
        assert forked("multirun/s", module="bcq_exp.compare", cwd=folder).returncode == 0
        assert ("estimates are older than the runs" in page.read_text()) is is_older
    (sweep / "ope" / "selection.json").write_text("{}")
    done = forked("multirun/s", module="bcq_exp.compare", cwd=folder)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "selection.json is damaged" in done.stderr
