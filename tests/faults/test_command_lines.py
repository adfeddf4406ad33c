"""Thousands of command lines: each is done, or refused in exactly one line; never a traceback.

Status 0: done, or shown, without a traceback. Status 2: ``error: ...``, one line on standard error.
Status 1: a run that began and failed, as it says in one line or more of its own.
"""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.faults.command_lines import TINY, Line, lines
from tests.forked import Done, forked, kept

LIMIT = 120  # seconds
THOUSANDS = int(os.environ.get("FAULTS_LINES", 3000))
FAILED = ("run failed: ", " run failed:", " runs failed:", " trial failed:", " trials failed:")


@pytest.fixture(scope="module")
def place(common, tmp_path_factory):
    """A folder as a user may have it; each command gets one of its own."""
    folder = tmp_path_factory.mktemp("place")
    done = forked(*TINY, "hydra.run.dir=done", cwd=folder)
    assert done.returncode == 0, done.stderr
    shutil.copytree(folder / "done", folder / "sweep" / "seed=0")
    (folder / "sweep" / "sweep.json").write_text('{"commands": [], "runs": ["seed=0", "seed=1"]}')
    shutil.copytree(folder / "done", folder / "broken")
    (folder / "broken" / "summary.json").write_text("{")
    (folder / "empty").mkdir()
    (folder / "file").write_text("")
    return folder


def outcome(line: Line, place: Path, folder: Path) -> Done:
    """Of a line, in a folder of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(place, folder)
    return kept().run(line.module, line.arguments, folder, LIMIT)


def assert_done_or_refused(done: Done) -> None:
    assert "Traceback" not in done.stderr + done.stdout
    assert done.status in (0, 1, 2)
    if done.status == 2:
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1 and done.stderr.endswith("\n")
    if done.status == 1:
        assert any(words in done.stderr for words in FAILED)


FOUND = [
    ("bcq_exp", ["hydra.run.dir="], "hydra.run.dir=: must be a path that is not empty"),
    ("bcq_exp", ["hydra.run.dir='  '"], "hydra.run.dir=  : must be a path"),
    ("bcq_exp", ["hydra.output_subdir="], "hydra.output_subdir=: must be a path"),
    ("bcq_exp", ["-m", "seed=0,1", "hydra.sweep.dir="], "hydra.sweep.dir=: must be a path"),
    ("bcq_exp", ["-m", "seed=0,1", "hydra.sweep.subdir="], "hydra.sweep.subdir=: must be a path"),
    ("bcq_exp", ["dataset=d4rl_hdf5", "dataset.path="], "dataset.path=: must be a path"),
    ("bcq_exp.evaluate", ["run="], "run=: must be a path"),
    ("bcq_exp.evaluate", ["run=done", "video="], "video=: must be a path ending in .gif or .mp4"),
    ("bcq_exp.collect", ["id=a/b-v0", "behaviour=run", "run="], "run=: must be a path"),
    ("bcq_exp.compare", [""], "runs=: must be a path that is not empty"),
    ("bcq_exp.compare", ["done", "--output="], "output=: must be a path that is not empty"),
    ("bcq_exp.status", [""], "folder=: must be a path that is not empty"),
    ("bcq_exp.wandb_mirror", ["done", ""], "runs=: must be a path that is not empty"),
    ("bcq_exp.wandb_sweep", ["--file="], "file=: must be a path that is not empty"),
    ("bcq_exp.wandb_workspace", ["project=p", "runs="], "runs=: must be a path"),
    ("bcq_exp.status", ["sweep", "--every=nan"], "every=nan: must be a number above 0"),
    ("bcq_exp.status", ["sweep", "every=x"], "every=x: must be a number above 0"),
    ("bcq_exp.status", ["sweep", "evry=1"], "evry=1: no such key; there are every, once"),
    ("bcq_exp.status", ["sweep", "once=1"], "once=1: must be true or false"),
    ("bcq_exp.export", [], "the following arguments are required: run"),
    ("bcq_exp.export", [""], "run=: must be a path that is not empty"),
    ("bcq_exp.export", ["absent"], "run=absent: contains no checkpoint.pt"),
    ("bcq_exp.export", ["sweep"], "run=sweep: is a sweep; give the folder of one of its runs"),
    ("bcq_exp.export", ["done", "format=onxx"], "format=onxx: must be one of onnx, torch"),
    ("bcq_exp.export", ["done", "output="], "output=: must be a path that is not empty"),
    ("bcq_exp.export", ["done", "format=torch", "output=file"], "output=file: not a folder"),
    ("bcq_exp.export", ["done", "format=torch", "output=file/x"], "output=file/x: not a folder"),
    ("bcq_exp.select", ["done", "return_range=[1,0]"], "return_range=[1.0,0.0]: the first number"),
    ("bcq_exp.select", ["done", "return_range=[-inf,0]"], "return_range=-inf: must be a number"),
    ("bcq_exp.select", ["done", "output=file"], "output=file: must be a folder, not a file"),
    ("bcq_exp.compare", ["done", "which=first"], "which=first: must be one of last, best"),
    (
        "bcq_exp",
        ["evaluate", "done", "--episodes=1"],
        "--episodes=1: no such option (see --help); ",
    ),
    ("bcq_exp", ["comparre", "done"], "comparre: no such command; did you mean compare?"),
    ("bcq_exp", ["wandb", "mirror", ""], "runs=: must be a path"),
    ("bcq_exp.status", [], "the following arguments are required: folder; see --help"),
    ("bcq_exp", ["--nope"], "--nope: no such option (see --help)"),
    ("bcq_exp", ["--experimental-rerun", "file"], "--experimental-rerun: not supported"),
    ("bcq_exp", ["-cn", "nope"], "nope.yaml: no such file; check --config-name, --config-dir"),
    ("bcq_exp", ["actor=false"], "actor=false: must name one of the group's choices"),
    ("bcq_exp", ["+hydra/job_logging=x"], "hydra/job_logging appears more than once"),
    ("bcq_exp.evaluate", ["device=", "run=done"], "device=: must be auto, cpu, cuda or"),
]


@pytest.mark.parametrize(
    ("module", "arguments", "message"), FOUND, ids=[" ".join([m, *a])[:80] for m, a, _ in FOUND]
)
def test_what_was_found_is_refused_in_one_line(module, arguments, message, place, tmp_path):
    line = Line(module, tuple(arguments))
    done = outcome(line, place, tmp_path / "line")
    assert_done_or_refused(done)
    assert done.status == 2
    assert done.stderr.startswith(f"error: {message}")


LONG = "a" * 300


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("bcq_exp", [f"hydra.run.dir={LONG}"]),
        ("bcq_exp.status", [LONG]),
        ("bcq_exp.evaluate", [f"run={LONG}"]),
    ],
)
def test_a_file_name_too_long_is_refused_in_one_line(module, arguments, place, tmp_path):
    done = outcome(Line(module, tuple(arguments)), place, tmp_path / "line")
    assert_done_or_refused(done)
    assert done.status == 2
    assert LONG in done.stderr


def campaign(max_examples):
    return settings(
        max_examples=max_examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate] if max_examples < 1000 else [Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


@campaign(15)
@given(line=lines())
def test_a_line_is_done_or_refused(line, place, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "line"
    assert_done_or_refused(outcome(line, place, folder))


@pytest.mark.faults
@pytest.mark.timeout(3 * 3600)
def test_so_are_thousands(place, tmp_path, record_property):
    record_property("tried", ("generated command lines", THOUSANDS))

    @campaign(THOUSANDS)
    @given(line=lines())
    def each(line):
        assert_done_or_refused(outcome(line, place, tmp_path / "line"))

    each()
