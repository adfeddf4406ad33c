"""W&B under fire, the real package: its process killed and stopped, no place to write, a server
that fails in every way. The run is the same, one warning says what to do, and that does it."""

import importlib
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
import wandb

from bcq_exp import wandb_mirror
from bcq_exp.training import wandb_service
from bcq_exp.training.record import RunRecord
from bcq_exp.training.run import Run
from tests.commands import TINY, bcq_exp, command, fit
from tests.same import assert_same_run
from tests.wandb_reader import read
from tests.wandb_server import WandbServer

WANDB = (*TINY, "logger=wandb")
ONLINE = (*WANDB, "logger.mode=online")
SOON = 4  # seconds that W&B gets to begin, and to end


def in_the_campaign(*modes):
    return [pytest.param(mode, marks=pytest.mark.faults) for mode in modes]


@pytest.fixture(autouse=True)
def own_service():
    """Each test has a W&B process of its own."""
    yield
    wandb_service.end()


@pytest.fixture
def impatient(monkeypatch):
    """What W&B cannot do is given up soon."""
    with monkeypatch.context() as soon:
        soon.setenv("WANDB_INIT_TIMEOUT", str(SOON))
        soon.setenv("WANDB_FINISH_TIMEOUT", str(SOON))
        soon.setattr(wandb_service, "GRACE", 1.0)
        yield soon


@pytest.fixture
def server(monkeypatch):
    with WandbServer("good") as started:
        monkeypatch.setenv("WANDB_BASE_URL", started.url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        yield started


def in_the_middle(monkeypatch, folder, do):
    """``do()`` before the first evaluation, when W&B has begun."""

    def evaluate(run, step, algorithm, is_stopped, evaluate=Run.evaluate):
        if step == 30:
            until(lambda: list(folder.glob("wandb/*run-*/run-*.wandb")))
            until(run.tracker._tasks.empty)  # it has been given what there is so far
            do()
        evaluate(run, step, algorithm, is_stopped)

    monkeypatch.setattr(Run, "evaluate", evaluate)


def until(true, seconds=30):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def signal_service(signum):
    (service,) = (
        child
        for child in psutil.Process().children()
        if child.name().startswith("wandb-core") and child.status() != psutil.STATUS_ZOMBIE
    )
    service.send_signal(signum)


def warnings(caplog):
    records = [r for r in caplog.records if r.levelno >= logging.WARNING]
    return [r.getMessage() for r in records if r.name.startswith("bcq_exp")]  # W&B keeps a log


def the_warning(caplog):
    (warning,) = warnings(caplog)
    return warning


def remedy(warning):
    """The command in a warning."""
    return shlex.split(re.findall("`(.*?)`", warning)[-1])


def sync(words, folder):
    """``wandb sync`` as a shell runs it."""
    done = subprocess.run(
        f"{shlex.quote(sys.executable)} -m {shlex.join(words[:-1])} {words[-1]}",
        shell=True, cwd=folder, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def written(folder, mode="offline"):
    """The run that W&B wrote there, when its process has closed all files."""
    wandb.teardown()
    (run,) = read(folder, mode)
    return run


def assert_whole(mirrored, folder):
    for table in ("train", "eval"):
        local = RunRecord(folder).rows(table)
        assert [pytest.approx(row, rel=1e-12) for row in local] == mirrored(table)


def assert_mirrors(warning, folder, capsys):
    """What the warning says to do makes W&B's record whole."""
    words = remedy(warning)
    assert words == ["bcq_exp", "wandb", "mirror", str(folder)]
    wandb_mirror.main(words[3:])
    run = written(folder)
    assert f"wandb sync {folder}/wandb/offline-run-" in capsys.readouterr().out
    assert_whole(run.rows, folder)
    summary = RunRecord(folder).summary()
    assert run.identity["id"] == summary["wandb_id"]
    assert run.exit_code == 0
    assert run.summary["last_return_mean"] == summary["last"]["return_mean"]
    assert {k: v for k, v in run.config.items() if k not in ("_wandb", "run")} == summary["config"]


@pytest.mark.parametrize(
    ("signum", "said"),
    [
        (signal.SIGKILL, r"W&B failed \(.*[Cc]onnection (lost|reset by peer)\): "),
        pytest.param(
            signal.SIGSTOP, r"W&B does not respond \(timeout\): ", marks=pytest.mark.faults
        ),
    ],
)
def test_a_service_that_dies_or_hangs_is_made_good(
    signum, said, trained, tmp_path, monkeypatch, impatient, caplog, capsys
):
    folder = tmp_path / "r"
    in_the_middle(monkeypatch, folder, lambda: signal_service(signum))
    fit(folder, *WANDB)
    impatient.undo()
    assert re.match(said, the_warning(caplog))
    assert_same_run(folder, trained)
    assert RunRecord(folder).summary()["status"] == "completed"
    assert_mirrors(the_warning(caplog), folder, capsys)


@pytest.mark.slow
def test_a_file_in_place_of_its_folder(trained, tmp_path, caplog, capsys):
    folder = tmp_path / "r"
    folder.mkdir()
    (folder / "wandb").write_text("")
    fit(folder, *WANDB)
    warning = the_warning(caplog)
    assert warning.startswith("W&B cannot start (")
    assert_same_run(folder, trained)
    (folder / "wandb").unlink()
    assert_mirrors(warning, folder, capsys)


@pytest.fixture
def mounted(tmp_path):
    """Mounts file systems, where that is allowed."""
    places = []

    def mount(place, options):
        place.mkdir(parents=True)
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if subprocess.run(words, capture_output=True).returncode:
            pytest.skip("file systems cannot be mounted here")
        places.append(place)

    yield SimpleNamespace(mount=mount, unmount=lambda: unmount(places))
    unmount(places)


def unmount(places):
    while places:
        subprocess.run(["umount", "--lazy", str(places.pop())], check=True)


@pytest.mark.parametrize("options", [pytest.param("ro", marks=pytest.mark.faults), "size=12k"])
@pytest.mark.slow
def test_a_folder_that_cannot_be_written_or_is_full(
    options, trained, tmp_path, mounted, caplog, capsys
):
    folder = tmp_path / "r"
    mounted.mount(folder / "wandb", options)
    fit(folder, *WANDB)
    warning = the_warning(caplog)
    assert_same_run(folder, trained)
    mounted.unmount()
    assert_mirrors(warning, folder, capsys)


@pytest.mark.parametrize(
    "mode", ["silent", *in_the_campaign("denied", "broken", "half", "refused")]
)
def test_a_server_that_never_lets_in(
    mode, server, trained, tmp_path, monkeypatch, impatient, caplog
):
    folder = tmp_path / "r"
    if mode == "refused":
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
    else:
        server.mode = mode
    fit(folder, *ONLINE)
    warning = the_warning(caplog)
    assert warning.startswith("W&B cannot go online (")
    assert_same_run(folder, trained)
    run = written(folder)
    assert_whole(run.rows, folder)
    assert run.exit_code == 0
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    server.mode = "good"
    sync(remedy(warning), tmp_path)
    assert_whole(lambda table: server.rows(RunRecord(folder).summary()["wandb_id"], table), folder)


@pytest.mark.parametrize("mode", ["broken", *in_the_campaign("denied", "silent")])
def test_a_server_that_fails_midway(
    mode, server, trained, tmp_path, monkeypatch, impatient, caplog
):
    folder = tmp_path / "r"
    in_the_middle(monkeypatch, folder, lambda: setattr(server, "mode", mode))
    fit(folder, *ONLINE)
    warning = the_warning(caplog)
    assert re.match(r"W&B (did not receive everything in time|warns) \(", warning)
    assert_same_run(folder, trained)
    run = written(folder, "online")
    assert_whole(run.rows, folder)
    server.mode = "good"
    sync(remedy(warning), tmp_path)
    assert_whole(lambda table: server.rows(run.identity["id"], table), folder)


@pytest.mark.faults
def test_half_an_answer_midway_is_an_answer(server, trained, tmp_path, monkeypatch, caplog):
    folder = tmp_path / "r"
    in_the_middle(monkeypatch, folder, lambda: setattr(server, "mode", "half"))
    fit(folder, *ONLINE)
    assert warnings(caplog) == []
    assert_same_run(folder, trained)
    run = written(folder, "online")
    assert_whole(run.rows, folder)
    assert_whole(lambda table: server.rows(run.identity["id"], table), folder)


@pytest.mark.slow
def test_a_server_that_is_well_has_every_row(server, tmp_path, caplog):
    fit(tmp_path / "r", *ONLINE)
    assert warnings(caplog) == []
    run_id = RunRecord(tmp_path / "r").summary()["wandb_id"]
    assert_whole(lambda table: server.rows(run_id, table), tmp_path / "r")


def test_a_module_can_be_imported_after_the_service_died(trained, tmp_path, monkeypatch, impatient):
    """W&B reports imports of such modules, jax among them, from the thread that imports."""
    (tmp_path / "catboost.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    def die_and_import():
        signal_service(signal.SIGKILL)
        time.sleep(0.5)  # until W&B notices
        importlib.import_module("catboost")

    in_the_middle(monkeypatch, tmp_path / "r", die_and_import)
    fit(tmp_path / "r", *WANDB)
    assert_same_run(tmp_path / "r", trained)


@pytest.mark.faults
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
def test_the_command_ends_well_and_says_nothing_else(signum, tmp_path):
    """Its own exit status, though Python ends after W&B's process did."""
    args = (*WANDB, "trainer.num_steps=20000", "trainer.eval_every=20000", "name=r")
    env = {**os.environ, "WANDB_INIT_TIMEOUT": "2", "WANDB_FINISH_TIMEOUT": "2"}
    with subprocess.Popen(
        command(*args), cwd=tmp_path, text=True, env=env,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        until(lambda: list(tmp_path.glob("multirun/r/wandb/*run-*/run-*.wandb")), 60)
        until(lambda: len(RunRecord(tmp_path / "multirun" / "r").rows("train")) > 3, 60)
        (service,) = psutil.Process(process.pid).children()
        service.send_signal(signum)
        out, err = process.communicate(timeout=200)
    assert (process.returncode, err) == (0, "")
    assert [line.startswith("W&B") for line in out.splitlines()].count(True) == 1
    done = bcq_exp(str(tmp_path / "multirun/r"), module="bcq_exp.wandb_mirror", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = read(tmp_path / "multirun" / "r")
    assert_whole(run.rows, tmp_path / "multirun" / "r")


@pytest.mark.faults
def test_training_goes_at_its_speed(server, tmp_path, monkeypatch):
    """Steps a second beside a server that fails, and without W&B, in turns.

    So many steps that the second of a processor in which W&B starts is a small part of them.
    """
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", str(SOON))
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", str(SOON))
    rates = {"none": [], "silent": [], "broken": []}
    tracked = ("logger.mode=online", "logger=wandb")
    for turn in range(3):
        for mode, found in rates.items():
            server.mode = "good" if mode == "none" else mode
            logger = ("logger=none",) if mode == "none" else tracked
            steps = ("trainer.num_steps=24000", "trainer.eval_every=24000")
            done = bcq_exp(*TINY, *steps, *logger, f"name={mode}{turn}", cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            timing = RunRecord(tmp_path / "multirun" / f"{mode}{turn}").rows("timing")
            found.append(timing[-1]["step"] / timing[-1]["wall_time"])
    print({mode: [round(rate) for rate in found] for mode, found in rates.items()})  # with -s
    for mode in ("silent", "broken"):
        assert max(rates[mode]) > 0.8 * max(rates["none"])
