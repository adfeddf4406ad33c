"""Disks that are full, or become read-only: one line, and the same command goes on with room."""

import os
import random
import shutil
import subprocess
from contextlib import contextmanager

import pytest

from tests.commands import COMPILED, bcq_exp, fit, tree
from tests.same import assert_same_rows, assert_same_run

pytestmark = pytest.mark.faults
LOCAL = [option for option in COMPILED if option != "logger=none"]


@contextmanager
def disk(folder, kib):
    """A disk of its own of so many KiB, mounted at a folder."""
    folder.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", folder],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no disk can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def remount(folder, options):
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


def room_taken(folder):
    return sum(-(-path.stat().st_size // 4096) * 4 for path in folder.rglob("*") if path.is_file())


def is_one_line(done, status=1):
    assert done.returncode == status, (done.returncode, done.stderr)
    assert done.stderr.count("\n") == 1, done.stderr
    assert any(w in done.stderr for w in ("No space left", "Read-only", "cannot write")), done


@pytest.mark.parametrize("tries", [6])
def test_a_run_on_a_disk_that_is_too_small(tries, tmp_path, record_property):
    fit(tmp_path / "straight", *COMPILED)
    whole = room_taken(tmp_path / "straight")
    rng, full = random.Random(1), 0
    for number in range(tries):
        with disk(tmp_path / f"disk{number}", rng.randrange(4, whole + 60, 4)) as place:
            done = bcq_exp(*COMPILED, "name=r", cwd=place)
            if done.returncode:
                is_one_line(done)
                full += 1
            remount(place, "size=50m")
            again = bcq_exp(*COMPILED, "name=r", cwd=place)
            assert again.returncode == 0, again.stderr
            assert_same_run(place / "multirun" / "r", tmp_path / "straight")
    assert full > tries / 2
    record_property("tried", ("full disks, a run", full))


def test_a_sweep_on_a_disk_that_is_too_small(tmp_path, record_property):
    options = (*COMPILED, "-m", "name=s", "seed=0,1")
    fit(tmp_path / "straight", *COMPILED)
    whole = 2 * room_taken(tmp_path / "straight")
    full = 0
    for number, share in enumerate((0.02, 0.2, 0.5, 0.9)):
        with disk(tmp_path / f"disk{number}", int(whole * share)) as place:
            done = bcq_exp(*options, cwd=place)
            is_one_line(done)
            full += 1
            remount(place, "size=50m")
            again = bcq_exp(*options, cwd=place)
            assert again.returncode == 0, again.stderr
    record_property("tried", ("full disks, a sweep", full))


def test_a_disk_that_is_read_only(tmp_path, record_property):
    with disk(tmp_path / "disk", 50_000) as place:
        done = bcq_exp(*COMPILED, "name=r", "trainer.num_steps=120", cwd=place)
        assert done.returncode == 0, done.stderr
        shutil.copytree(place / "multirun" / "r", place / "multirun" / "s" / "seed=0")
        remount(place, "ro")
        before = tree(place)
        for options in (
            (*COMPILED, "name=r"),
            (*COMPILED, "name=new"),
            (*COMPILED, "-m", "name=sweep", "seed=0,1"),
        ):
            is_one_line(bcq_exp(*options, cwd=place))
        for module, status, options in (
            ("bcq_exp.evaluate", 1, ("run=multirun/r", "num_episodes=1")),
            ("bcq_exp.compare", 2, ("multirun/r",)),  # --output names another place
            ("bcq_exp.collect", 2, ("id=my/set-v0", "env=Pendulum-v1", "num_steps=200")),
        ):
            environment = {**os.environ, "MINARI_DATASETS_PATH": str(place / "minari")}
            is_one_line(bcq_exp(*options, cwd=place, module=module, env=environment), status)
        assert tree(place) == before
        status = bcq_exp("multirun/s", module="bcq_exp.status", cwd=place)
        assert status.returncode in (0, 2) and "Traceback" not in status.stderr, status.stderr
        remount(place, "rw")
        assert bcq_exp(*COMPILED, "name=r", cwd=place).returncode == 0
        fit(tmp_path / "straight", *COMPILED)
        assert_same_rows(place / "multirun" / "r", tmp_path / "straight")
    record_property("tried", ("read-only disks, a command each", 6))


def test_a_recording_on_a_disk_that_is_too_small(tmp_path, record_property):
    options = ("id=my/set-v0", "env=Pendulum-v1", "num_steps=20000")
    for number, kib in enumerate((40, 700)):
        with disk(tmp_path / f"disk{number}", kib) as place:
            environment = {**os.environ, "MINARI_DATASETS_PATH": str(place / "minari")}
            run = {"cwd": tmp_path, "module": "bcq_exp.collect", "env": environment}
            is_one_line(bcq_exp(*options, **run))
            remount(place, "size=50m")
            again = bcq_exp(*options, **run)
            assert again.returncode == 0, again.stderr
    record_property("tried", ("full disks, a recording", 2))


def test_a_cache_on_a_full_disk_costs_time_alone(common, tmp_path, record_property):
    options = ("id=faults/full-v0", "env=Pendulum-v1", "num_steps=1000")
    done = bcq_exp(*options, "overwrite=true", cwd=common, module="bcq_exp.collect")
    assert done.returncode == 0, done.stderr
    run = (*(o for o in COMPILED if not o.startswith("dataset.")), "dataset=minari")
    run = (*run, "dataset.id=faults/full-v0", "dataset.download=false", "trainer.num_steps=40")
    for kib in (4, 12, 40):
        with disk(tmp_path / f"cache{kib}", kib) as place:
            environment = {**os.environ, "XDG_CACHE_HOME": str(place)}
            done = bcq_exp(*run, f"name=r{kib}", cwd=tmp_path, env=environment)
            assert (done.returncode, done.stderr) == (0, "")
    record_property("tried", ("full disks, a cache", 3))
