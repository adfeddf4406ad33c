"""python -m bcq_exp.paper: refuses early, says how long, goes on after a kill, ends with claims."""

import json
import signal
import subprocess
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from hydra.core.hydra_config import HydraConfig
from pandas.testing import assert_frame_equal

from bcq_exp.data import minari_store
from bcq_exp.paper import duration, prechecks
from bcq_exp.training.record import RunRecord
from bcq_exp.training.spec import RunSpec
from tests.commands import bcq_exp, command, compose, wait_until
from tests.forked import forked
from tests.paper.records import unpack
from tests.paper.test_experiments import of, plan

# two settings that share an agent, learners of four stacks: a minute or two
BRIEF = (
    *("budget=tiny", "settings=[concurrent,imperfect]", "algorithms=[bcq,ddpg,td3_bc]"),
    *("agent.num_steps=1500", "agent.start_steps=500", "agent.eval_every=700"),
    *("transitions.concurrent=1500", "transitions.final_buffer=1500", "transitions.imperfect=600"),
    *("learner.num_steps=400", "learner.eval_every=100", "learner.eval_episodes=2"),
)


@pytest.fixture
def paper(tmp_path, own_data):
    return partial(bcq_exp, cwd=tmp_path, module="bcq_exp.paper", env=own_data)


MISTAKES = [
    (["budget=huge"], "there are full, medium, small, tiny"),
    (["budget=small", "settings=[imperfect,expert]"], "settings=["),
    (
        ["budget=small", "algorithms=[bcq,sac]"],
        "each one of bcq, bc, vae_bc, ddpg, dqn, td3_bc, iql, cql",
    ),
    (["budget=small", "envs=[Hopper-v5,Nope-v0]"], "Nope-v0"),
    (
        ["budget=small", "envs=[MountainCarContinuous-v0]"],
        "envs=MountainCarContinuous-v0: has no reference scores",
    ),
    (
        ["budget=small", "envs=[Hopper-v5,Hopper-v5]"],
        "envs=['Hopper-v5', 'Hopper-v5']: must name at least one, and none twice",
    ),
    (["budget=small", "envs=[]"], "envs=[]: must name at least one"),
    (["budget=small", "-m"], "-m: only used by bcq_exp train; leave it out"),
    (["budget=small", "learner.eval_every=10000"], "give at most 7500"),
    (["budget=small", "agent.eval_every=30000"], "in the last 25% of transitions.concurrent=40000"),
    (["budget=small", "transitions.final_buffer=100001"], "must be at most the agent's"),
    (["budget=small", "agent.num_steps=10000"], "must be above agent.start_steps=10000, the steps"),
    (["budget=small", "agent.start_steps=40000"], "must be below transitions.concurrent"),
    (["budget=small", "hydra/launcher=abacus"], "hydra/launcher=abacus: no such choice"),
    (["budget=small", "num_seeds=0"], "num_seeds=0: must be an integer at least 1"),
]


@pytest.mark.parametrize(("args", "message"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_a_mistake_is_one_line_with_status_2_before_anything_is_written(
    args, message, tmp_path, own_data
):
    done = forked(*args, cwd=tmp_path, module="bcq_exp.paper", env=own_data)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr
    assert not (tmp_path / "multirun").exists()


def test_data_made_with_other_versions_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    made = plan("budget=tiny")
    folder = minari_store.data_folder(made.datasets[0].id)
    folder.mkdir(parents=True)
    now, steps = prechecks.versions(), made.agents.num_steps
    other = {**now, "mujoco": "3.1.0"}
    for versions, agent, said in (
        (other, {"versions": now, "step": steps}, "was made with mujoco 3.1.0, but"),
        (now, {"versions": other, "step": steps}, "the agent of data set bcq_paper/"),
        (
            now,
            {"versions": now, "step": steps + 1},
            f"was recorded with an agent of {steps + 1} steps, not",
        ),
    ):
        provenance = {"bcq_exp": {"versions": versions, "agent": agent}}
        (folder / "metadata.json").write_text(json.dumps(provenance))
        with pytest.raises(prechecks.UserError) as refused:
            prechecks.missing_data(made)
        assert said in str(refused.value) and "\n" not in str(refused.value)
    provenance = {"bcq_exp": {"versions": now, "agent": {"versions": now, "step": steps}}}
    (folder / "metadata.json").write_text(json.dumps(provenance))
    assert made.datasets[0] not in prechecks.missing_data(made)
    assert len(prechecks.missing_data(made)) == 3


@pytest.mark.parametrize(("budget", "gib"), [("full", 25), ("small", 12)])
def test_a_budget_that_the_disk_cannot_hold_is_refused(budget, gib, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    made = plan(f"budget={budget}")
    prechecks.check_disk(made)
    usage = SimpleNamespace(free=gib * 2**29)
    monkeypatch.setattr(prechecks.shutil, "disk_usage", lambda place: usage)
    with pytest.raises(prechecks.UserError) as refused:
        prechecks.check_disk(made)
    assert f"{gib / 2:.1f} are free" in str(refused.value) and "\n" not in str(refused.value)
    needed = float(str(refused.value).split("about ")[1].split(" GiB")[0])
    assert gib / 2 < needed < 4 * gib


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_command_resumes_and_ends_with_figures_and_claims(paper, tmp_path, own_data):
    first = subprocess.Popen(
        command(*BRIEF, module="bcq_exp.paper"), cwd=tmp_path, env=own_data, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    sweep = tmp_path / "multirun" / "paper_tiny_concurrent_Pendulum-v1"
    learner = RunRecord(sweep / "algo=bcq,seed=0")
    wait_until(lambda: learner.rows("eval"), first, 200)
    first.send_signal(signal.SIGTERM)
    _, said = first.communicate(timeout=100)
    assert first.returncode == 143, said
    assert "Traceback" not in said
    assert 0 < learner.summary()["step"] < 400
    agents = {p: p.read_bytes() for p in tmp_path.glob("multirun/paper_tiny_agents/*/train.csv")}
    (trained,) = agents
    assert len(trained.read_text().splitlines()) == 4
    data = {p: p.stat().st_mtime_ns for p in tmp_path.glob("minari/bcq_paper/**/metadata.json")}
    assert len(data) == 2

    for changed in ("agent.num_steps=1400", "learner.num_steps=100", "agent.start_steps=400"):
        refused = paper(*BRIEF, changed, "learner.eval_every=25", "transitions.concurrent=1400")
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
        assert refused.stderr.endswith("; give another name=\n"), refused.stderr

    planned = paper(*BRIEF, "plan_only=true")
    assert planned.returncode == 0, planned.stderr
    said = [" ".join(line.split()) for line in planned.stdout.splitlines()]
    assert said[:2] == ["agents 0 of 1 about 0 s", "data sets 0 of 2 about 0 s"]
    assert said[2].startswith("bcq 4 about")
    assert said[-1] == "data sets per setting: 1, too few to decide any claim"

    done = paper(*BRIEF)
    assert done.returncode == 0, done.stderr
    assert {p: p.read_bytes() for p in agents} == agents
    assert {p: p.stat().st_mtime_ns for p in data} == data
    summaries = [RunRecord(f).summary() for s in plan(*BRIEF).sweeps for f in _in(s, tmp_path)]
    assert len(summaries) == 12
    assert {summary["status"] for summary in summaries} == {"completed"}
    assert {summary["step"] for summary in summaries} == {400}
    assert "- **not decided**: BCQ outperforms DDPG in every setting." in done.stdout
    page = tmp_path / "multirun" / "paper_tiny" / "index.html"
    assert done.stdout.splitlines()[-1] == f"report: {page}"
    assert page.exists()


def _in(sweep, folder):
    return [folder / path for path in sweep.folders.values()]


@pytest.mark.slow
@pytest.mark.parametrize(("budget", "seeds"), [("small", ()), ("medium", ("num_seeds=1",))])
def test_what_is_published_is_what_its_records_make(budget, seeds, tmp_path, own_data):
    published = Path(__file__).parent / budget
    unpack(published / "records.tar.xz", tmp_path)
    asked = (f"budget={budget}", *seeds)
    done = forked(*asked, cwd=tmp_path, module="bcq_exp.paper", env=own_data)
    assert done.returncode == 0, done.stderr
    assert (published / "claims.md").read_text() in done.stdout
    assert "subset" not in done.stdout  # which libraries log of fonts
    made = tmp_path / "multirun" / f"paper_{budget}"
    for name in ("claims.md", "table.md", "table.tex", "curves.svg", "values.svg"):
        assert (made / name).read_text() == (published / name).read_text(), name
    # machines differ in the last digit of a mean
    assert_frame_equal(
        *(pd.read_csv(place / "runs.csv") for place in (made, published)), rtol=1e-12
    )


def test_a_plan_counts_the_workers_of_the_launcher(own_data, monkeypatch):
    given = ("budget=tiny", "own_agents=true", "settings=[imperfect]", "algorithms=[bcq]")
    measured = duration.cost_of(RunSpec.of(compose(), Path()))
    monkeypatch.setattr(duration, "cost_of", lambda _: measured)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)

    def seconds(n_jobs):
        launcher = ("hydra/launcher=joblib", f"hydra.launcher.n_jobs={n_jobs}")
        cfg = compose(*given, *launcher, config_name="paper", with_hydra=True)
        HydraConfig.instance().set_config(cfg)
        shares = duration.shares_of(cfg, plan(*given, launcher=launcher), of)
        return {share.name: share.seconds for share in shares}["bcq"]

    assert seconds(1) == pytest.approx(2 * seconds(2))
