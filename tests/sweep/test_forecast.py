"""``--plan`` says what a sweep will be and take, and leaves no trace."""

import re

import pytest

from tests.commands import TINY, fit, tree
from tests.forked import forked

SWEEP = ("-m", "name=s", *TINY, "algo.num_sampled_action=3,6", "seed=0,1")


@pytest.fixture
def begun(tmp_path):
    """A sweep of which one run is complete and one half-way."""
    for seed, steps in ((0, 60), (1, 30)):
        folder = tmp_path / "multirun" / "s" / f"num_sampled_action=3,seed={seed}"
        fit(folder, *TINY, f"seed={seed}", f"trainer.num_steps={steps}")
    return tmp_path


def test_a_plan_shows_runs_groups_time_and_disk_and_writes_nothing(begun):
    before = tree(begun)
    done = forked(*SWEEP, "--plan", cwd=begun)
    assert (done.returncode, done.stderr) == (0, "")
    assert tree(begun) == before
    assert "multirun/s: 4 runs, 1 complete, 3 to train in 2 groups of 2/1" in done.stdout
    groups = [line for line in done.stdout.splitlines() if line.startswith("  ")]
    assert "2 runs" in groups[0]
    assert "algo.num_sampled_action=6" in groups[0]
    assert re.match("  1 run, about [01] s: name=s ", groups[1])
    assert " algo.num_sampled_action=3 " in groups[1]
    assert groups[1].endswith(" seed=1")
    ending = (
        r"1 worker: about (\d+) s, including 4 s of start-up; (\d+) s of work; about \d\.\d MiB"
    )
    found = re.search(ending, done.stdout)
    assert found is not None, done.stdout
    assert int(found[1]) == pytest.approx(int(found[2]) + 4, abs=1)


def test_one_run_has_no_plan(tmp_path):
    done = forked("--plan", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: --plan: describes a sweep, and this is a single run; add -m"
    ]
    assert tree(tmp_path) == {}


@pytest.mark.slow
def test_several_workers_are_planned_to_end_together(tmp_path):
    two = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    done = forked(*SWEEP, *two, "--plan", "trainer.num_steps=5000000", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    ending = r"2 workers: about ([\d.]+) h \(the first worker ends after ([\d.]+) h\)"
    found = re.search(ending, done.stdout)
    assert found is not None, done.stdout
    assert float(found[2]) > 0.75 * float(found[1])
    assert tree(tmp_path) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            ("seed=0,1", "hydra/launcher=basic"),
            "--plan: cannot be combined with hydra/launcher=basic",
        ),
        (("seed=0,1", "hydra.launcher.group_size=0"), "group_size=0: must be auto or"),
        (("seed=0,1", "--config-path", "/"), "config.yaml: no such file; check --config-name, "),
    ],
)
def test_what_cannot_be_planned_is_one_line(given, line, tmp_path):
    done = forked("-m", "--plan", *given, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert line in done.stderr
    assert tree(tmp_path) == {}


@pytest.mark.slow
def test_the_plan_of_a_search_shows_the_ends_of_its_ranges(tmp_path):
    search = (*TINY, "hydra/sweeper=optuna", "algo.num_sampled_action=choice(1,100)")
    done = forked("-m", "--plan", *search, "algo.lmbda=interval(0,1)", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "up to 20 trials, 8 at a time" in done.stdout
    assert "algo.num_sampled_action=1 algo.lmbda=0.0" in done.stdout
    assert "algo.num_sampled_action=100 algo.lmbda=1.0" in done.stdout
    assert tree(tmp_path) == {}
