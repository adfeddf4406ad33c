"""W&B mirrors the local files value by value, and its failing never stops a run."""

import logging
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from bcq_exp.training import tracking, wandb_export, wandb_service
from bcq_exp.training.record import RunRecord
from bcq_exp.training.tracking import Warnings
from tests.commands import TINY, bcq_exp, command, episodes_cut_short, fit, wait_until
from tests.forked import forked
from tests.same import assert_same_run, checkpoint
from tests.wandb_reader import read

WANDB = (*TINY, "logger=wandb")
SHORT_EPISODES = pytest.mark.usefixtures("short_episodes")


@pytest.fixture(scope="module")
def offline(trained):
    (run,) = read(trained)
    return run


@pytest.mark.parametrize("table", ["train", "eval"])
def test_every_value_of_the_local_files_is_in_wandb(table, offline, trained):
    local, mirrored = RunRecord(trained).rows(table), offline.rows(table)
    assert len(local) == len(mirrored) == {"train": 6, "eval": 2}[table]
    for row, mirror in zip(local, mirrored, strict=True):
        assert mirror == pytest.approx(row, rel=1e-12)


def test_the_configuration_is_logged_whole(offline, trained):
    summary = RunRecord(trained).summary()
    logged = {key: value for key, value in offline.config.items() if key != "_wandb"}
    run = logged.pop("run")
    assert logged == summary["config"]
    for name in ("dataset", "versions", "git_commit", "config_hash", "command"):
        assert run[name] == summary[name]


def test_the_wandb_run_has_the_loggers_identity(offline, trained):
    summary = RunRecord(trained).summary()
    assert offline.identity["id"] == summary["wandb_id"]
    assert offline.identity["name"] == "trained"
    assert offline.identity["project"] == "bcq_exp"
    assert (offline.identity["group"], offline.identity["job_type"]) == ("g", "j")
    assert sorted(offline.identity["tags"]) == sorted(["t", "u", summary["dataset"]["id"]])


def test_wandbs_summary_has_the_best_return_and_the_last(offline, trained):
    returns = [row["return_mean"] for row in RunRecord(trained).rows("eval")]
    assert offline.summary["eval/return_mean"] == pytest.approx(
        {"max": max(returns), "last": returns[-1]}
    )
    assert offline.summary["best_return_mean"] == pytest.approx(max(returns))
    assert offline.summary["last_return_mean"] == pytest.approx(returns[-1])
    assert offline.summary["status"] == "completed"
    assert offline.exit_code == 0


def test_curves_are_drawn_over_gradient_steps(offline):
    assert [row["_step"] for row in offline.history] == list(range(8))
    assert offline.metrics["train/*"][0] == "step"
    assert offline.metrics["eval/*"][0] == "step"
    step, summaries = offline.metrics["eval/return_mean"]
    assert step == "step"
    assert {"max", "last"} <= summaries


def test_what_is_longer_than_wandb_takes_is_shortened(tmp_path, monkeypatch):
    import wandb

    trackers = []
    monkeypatch.setattr(
        tracking, "WandbTracker", lambda **given: trackers.append(given["identity"])
    )
    sweep = tmp_path / ("s" * 150)
    sweep.mkdir()
    (sweep / "multirun.yaml").touch()
    logger = {
        "mode": "offline",
        "project": "p",
        "entity": None,
        "group": None,
        "job_type": "j",
        "tags": ["u"],
    }
    for end in "ab":
        facts = dict.fromkeys(("versions", "git_commit", "config_hash", "command"))
        facts |= {"config": {"logger": logger}, "dataset": {"id": "d" * 70 + end}}
        tracking.build_tracker(RunRecord(sweep / ("t" * 140 + end)), facts, Warnings())
    a, b = trackers
    wandb.Settings(run_tags=a["tags"], run_group=a["group"], run_name=a["name"])  # it takes them
    assert [len(tag) for tag in a["tags"]] == [1, 64]
    assert (len(a["group"]), len(a["name"])) == (128, 128)
    assert a["tags"][1] != b["tags"][1] and a["name"] != b["name"] and a["group"] == b["group"]


def test_without_a_writable_home_wandbs_own_log_goes_elsewhere(tmp_path, monkeypatch):
    for name in ("XDG_CACHE_HOME", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(name, "")  # what follows is undone in the end
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/proc/none")
    monkeypatch.setattr(wandb_service.tempfile, "gettempdir", lambda: str(tmp_path))
    unwritable, instead = wandb_service.find_cache()
    assert str(unwritable).startswith("/proc/none") and instead.parent == tmp_path
    assert wandb_service.find_cache() is None  # it is said once


@pytest.mark.parametrize(("home", "num_lines"), [(None, 0), ("/proc", 1)])
def test_a_mirror_is_written_without_a_writable_home_too(home, num_lines, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "r")
    others = ("HOME", "XDG_CACHE_HOME", "WANDB_CACHE_DIR", "WANDB_SERVICE")
    env = {name: value for name, value in os.environ.items() if name not in others}
    env |= {} if home is None else {"HOME": home}
    done = forked("r", module="bcq_exp.wandb_mirror", cwd=tmp_path, env=env)
    assert done.returncode == 0 and done.stderr.count("\n") == num_lines, done.stderr
    assert all("W&B cannot write its cache" in line for line in done.stderr.splitlines())
    (written,) = run.glob("wandb/offline-run-*")
    assert done.stdout == f"wandb sync {written.relative_to(tmp_path)}\n"


@SHORT_EPISODES
def test_disabled_writes_nothing_of_wandb(tmp_path, monkeypatch):
    import wandb

    monkeypatch.setattr(wandb, "init", lambda **_: pytest.fail("W&B was started"))
    fit(tmp_path / "r", *TINY, "logger.mode=disabled")
    assert not (tmp_path / "r" / "wandb").exists()
    assert RunRecord(tmp_path / "r").summary()["wandb_id"] is None


def test_a_run_has_one_id_however_often_it_is_mirrored(tmp_path):
    brief = (*TINY, "trainer.eval_episodes=0", "trainer.engine=eager")
    folder, record, ids = tmp_path / "r", RunRecord(tmp_path / "r"), []
    for num_steps in (20, 40):
        fit(folder, *brief, f"trainer.num_steps={num_steps}")
        with (folder / "train.csv").open("a") as file:
            file.write("half a r")  # as a kill leaves it
        marks = record.summary()["record"]
        ids.append(wandb_export.mirror(folder).name.rpartition("-")[2])
        assert record.summary()["record"] == marks
    assert ids == [record.summary()["wandb_id"]] * 2


def test_online_without_a_login_is_one_warning_and_recorded_offline(trained, tmp_path):
    done = forked(*WANDB, "logger.mode=online", "name=online", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    folder = tmp_path / "multirun" / "online"
    assert [line for line in done.stdout.splitlines() if "W&B" in line] == [
        "W&B cannot go online (not logged in: run `wandb login`): recording offline; "
        f"`wandb sync {folder}/wandb/offline-run-*` uploads it"
    ]
    assert_same_run(folder, trained)
    (run,) = read(folder)
    assert len(run.rows("train")) == 6


@pytest.fixture(scope="module")
def untracked(tmp_path_factory):
    """The same run without W&B."""
    folder = tmp_path_factory.mktemp("untracked") / "r"
    with episodes_cut_short():
        fit(folder, *TINY)
    return folder


class FakeRun(SimpleNamespace):
    """W&B's run, raising where it is told to."""

    def __init__(self, failing=(), **values):
        settings = SimpleNamespace(sync_file=sys.executable)  # any file of some size
        super().__init__(
            summary={}, rows=[], numbers=[], failing=failing, ended=[], settings=settings,
            **{"starting_step": 0, **values},
        )  # fmt: skip

    def _maybe_fail(self, name):
        if name in self.failing:
            raise RuntimeError(f"{name} is down\nand more of it")

    def define_metric(self, *args, **kwargs):
        self._maybe_fail("define_metric")

    def log(self, row, step, commit):
        assert commit and step >= self.starting_step  # else W&B waits for more, or drops it
        self.numbers.append(step)
        if "eval/return_mean" in row:  # in the middle of the run
            self._maybe_fail("log")
        self.rows.append(row)

    def finish(self, exit_code):
        self._maybe_fail("finish")
        self.ended.append(exit_code)


def warned(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


@SHORT_EPISODES
@pytest.mark.parametrize(
    ("failing", "message"),
    [
        ("define_metric", "W&B cannot start (define_metric is down)"),
        ("log", "W&B failed (log is down)"),
        ("finish", "W&B failed at the end (finish is down)"),
    ],
)
def test_wandb_that_raises_is_one_warning(
    failing, message, untracked, tmp_path, monkeypatch, caplog
):
    import wandb

    run = FakeRun(failing=(failing,))
    monkeypatch.setattr(wandb, "init", lambda **_: run)
    fit(tmp_path / "r", *WANDB)
    again = f"`bcq_exp wandb mirror {tmp_path / 'r'}` writes its W&B run again"
    assert warned(caplog) == [f"{message}: the local files have the whole run; {again}"]
    assert_same_run(tmp_path / "r", untracked)
    assert RunRecord(tmp_path / "r").summary()["status"] == "completed"


@SHORT_EPISODES
def test_wandb_that_cannot_start_is_one_warning(untracked, tmp_path, monkeypatch, caplog):
    import wandb

    def init(**_):
        raise OSError("no space left on device")

    monkeypatch.setattr(wandb, "init", init)
    fit(tmp_path / "r", *WANDB)
    (warning,) = warned(caplog)
    assert "W&B cannot start (no space left on device)" in warning
    assert_same_run(tmp_path / "r", untracked)


@SHORT_EPISODES
def test_a_server_out_of_reach_is_one_warning_and_recorded_offline(tmp_path, monkeypatch, caplog):
    import wandb

    wandb.teardown()  # whatever came before in this process, the key is looked for now
    modes, run = [], FakeRun()

    def init(*, mode, **_):
        modes.append(mode)
        if mode == "online":
            raise wandb.errors.CommError("unreachable")
        return run

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    fit(tmp_path / "r", *WANDB, "logger.mode=online", "trainer.num_steps=10")
    assert modes == ["online", "offline"]
    (warning,) = warned(caplog)
    assert warning.startswith("W&B cannot go online (unreachable): recording offline; `wandb sync")
    assert [row["step"] for row in run.rows] == [10, 10]
    assert run.ended == [0]


@SHORT_EPISODES
def test_a_resumed_run_is_the_same_wandb_run(tmp_path, monkeypatch):
    import wandb

    asked, runs = [], []

    def init(*, id, resume, **_):
        asked.append((id, resume))
        runs.append(FakeRun())
        return runs[-1]

    monkeypatch.setattr(wandb, "init", init)
    fit(tmp_path / "r", *WANDB, "trainer.num_steps=30")
    fit(tmp_path / "r", *WANDB)
    wandb_id = RunRecord(tmp_path / "r").summary()["wandb_id"]
    assert asked == [(wandb_id, None), (wandb_id, "allow")]
    steps = [[row["step"] for row in run.rows] for run in runs]
    assert steps == [[10, 20, 30, 30], [40, 50, 60, 60]]
    assert [run.numbers for run in runs] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    returns = [row["return_mean"] for row in RunRecord(tmp_path / "r").rows("eval")]
    assert runs[-1].summary["eval/return_mean"] == {"max": max(returns), "last": returns[-1]}


@SHORT_EPISODES
@pytest.mark.parametrize("had", [0, 4])
def test_after_a_kill_rows_have_their_numbers_again(had, tmp_path, monkeypatch):
    """Those that the server got before it, of an online run, are not sent to it again."""
    import wandb

    runs = [FakeRun(), FakeRun(starting_step=had)]
    left = iter(runs)
    monkeypatch.setattr(wandb, "init", lambda **_: next(left))
    fit(tmp_path / "r", *WANDB, "trainer.num_steps=30")
    killed = RunRecord(tmp_path / "r").summary() | {"status": "running"}
    RunRecord(tmp_path / "r").write_summary(killed)
    checkpoint = tmp_path / "r" / "checkpoint.pt"
    checkpoint.with_stem("checkpoint.previous").replace(checkpoint)  # of step 15
    fit(tmp_path / "r", *WANDB)
    numbered = [dict(zip(run.numbers, (r["step"] for r in run.rows), strict=True)) for run in runs]
    assert numbered[0] == {0: 10, 1: 20, 2: 30, 3: 30}
    rows = {1: 20, 2: 30, 3: 30, 4: 40, 5: 50, 6: 60, 7: 60}
    assert numbered[1] == {number: step for number, step in rows.items() if number >= had}


@pytest.mark.slow
def test_offline_the_numbers_continue_after_a_kill_too(tmp_path):
    options = (*WANDB, "name=r", "trainer.engine=eager", "trainer.num_steps=3000")
    options += ("trainer.eval_every=1500", "trainer.checkpoint_every=100")
    folder = tmp_path / "multirun" / "r"
    env = {k: v for k, v in os.environ.items() if k != "WANDB_SERVICE"}  # of another test
    process = subprocess.Popen(command(*options), cwd=tmp_path, env=env)
    begun = ("checkpoint.pt", "wandb/offline-run-*/*.wandb")
    wait_until(lambda: all(list(folder.glob(pattern)) for pattern in begun), process, 120)
    process.kill()
    process.wait()
    step = checkpoint(folder)["step"]
    assert step < 3000
    assert bcq_exp(*options, cwd=tmp_path, env=env).returncode == 0
    killed, resumed = read(folder)  # W&B may not have written the last rows of the first
    ids = {path.name.rpartition("-")[2] for path in folder.glob("wandb/offline-run-*")}
    assert ids == {resumed.identity["id"]}
    rows = [row["step"] for table in ("train", "eval") for row in RunRecord(folder).rows(table)]
    expected = list(enumerate(sorted(rows)))
    for run, numbered in ((killed, expected), (resumed, [e for e in expected if e[1] > step])):
        logged = [(row["_step"], row["step"]) for row in run.history]
        assert logged == numbered[: len(logged)]
    assert len(logged) == len(numbered)


@SHORT_EPISODES
def test_a_failed_run_ends_with_a_failure_in_wandb_too(tmp_path, monkeypatch):
    import wandb

    from bcq_exp.errors import RunStopped

    run = FakeRun()
    monkeypatch.setattr(wandb, "init", lambda **_: run)
    with pytest.raises(RunStopped):
        fit(tmp_path / "r", *WANDB, "optimizer@critic_optim=sgd", "critic_optim.lr=1e3")
    assert run.ended == [1]
    assert run.summary["status"] == "failed"


@pytest.mark.slow
def test_the_group_of_a_run_in_a_sweep_is_the_sweep(tmp_path):
    sweep = ("algo.lmbda=0.5,1.0", "logger.group=null", "trainer.num_steps=10", "name=s")
    done = bcq_exp("-m", *WANDB, *sweep, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for lmbda in ("0.5", "1.0"):
        (run,) = read(tmp_path / "multirun" / "s" / f"lmbda={lmbda}")
        assert run.identity["group"] == "s"
        assert f"lmbda={lmbda}" in run.identity["name"]
