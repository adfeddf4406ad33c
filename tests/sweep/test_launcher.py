"""The launcher in this process, with workers that train nothing."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobRuntime, JobStatus
from hydra.types import RunMode

from bcq_exp import locks
from bcq_exp.config.naming import RunNaming
from bcq_exp.errors import RunStopped, UserError
from bcq_exp.sweep import launcher
from bcq_exp.sweep.jobs import Planned
from bcq_exp.sweep.launcher import CohortLauncher
from bcq_exp.sweep.workers import Workers
from bcq_exp.training.cohort import CohortKey
from bcq_exp.training.folders import LOCK
from tests.commands import TINY, compose, config_loader, spec_of


class Failing(Workers):
    """Workers whose groups end with these errors, a minute of the launcher's clock each."""

    def __init__(self, *errors, count=1):
        self.errors, self.count, self.calls, self.clock = errors, count, [], 0.0

    def _called(self, what, folder):
        self.calls.append((what, locks.is_held(folder / LOCK)))

    def wait_for_earlier_jobs(self, folder):
        self._called("wait", folder)

    def check(self, folder, count):
        self._called(f"check {count}", folder)

    def run(self, function, groups, folder):
        self._called("run", folder)
        for index, _ in enumerate(groups):
            self.clock += 60
            yield index, self.errors[index]


@pytest.fixture
def launched(tmp_path, monkeypatch, caplog):
    """Launches jobs with these workers; the results."""
    loader = config_loader()
    JobRuntime.instance().set("name", "tests")
    caplog.set_level(logging.INFO, "bcq_exp")

    def launch(jobs, workers, keys=("seed",), plan=False, **options):
        monkeypatch.setattr(launcher, "time", SimpleNamespace(monotonic=lambda: workers.clock))
        sweep = ["hydra/hydra_logging=none", f"hydra.sweep.dir='{tmp_path}'"]
        sweep += [f"hydra.sweep.subdir='{RunNaming(keys).subdir}'", "hydra.verbose=[]"]
        config = loader.load_configuration("config", [*TINY, *sweep], RunMode.MULTIRUN)
        made = CohortLauncher("auto", workers)
        context = SimpleNamespace(config_loader=loader, callbacks=None)
        made.setup(hydra_context=context, task_function=None, config=config)
        jobs = [[*TINY, *job] for job in jobs]
        return made.say_plan(jobs) if plan else made.launch(jobs, 0, **options)

    return launch


def test_each_run_has_the_error_of_its_group(launched, tmp_path, caplog):
    before = HydraConfig.instance().cfg
    workers = Failing(ValueError("odd\nmore"), RunStopped("job 7 ended", 1), count=2)
    results = launched([["seed=0"], ["seed=1"], ["seed=2"]], workers)
    assert workers.calls == [("wait", False), ("check 2", True), ("run", True)]
    assert not locks.is_held(tmp_path / LOCK)
    assert HydraConfig.instance().cfg is before
    assert [result.status for result in results] == [JobStatus.FAILED] * 3
    failed = [result._return_value for result in results]
    assert sorted(map(str, failed)) == ["ValueError: odd", "ValueError: odd", "job 7 ended"]
    assert str(failed[0].whole).startswith("3 of 3 runs failed:\n  seed=")
    first, progress, *ended = caplog.messages
    assert first.endswith(": 3 runs, 3 to train in 2 groups of 2/1")
    assert progress.startswith("progress: bcq_exp status ")
    assert ended == ["2 of 3 runs ended, 2 failed, about 30 s left", "3 of 3 runs ended, 3 failed"]
    (asked,) = json.loads((tmp_path / "sweep.json").read_text())["commands"]
    assert "hydra.sweep" not in asked


@pytest.mark.parametrize(
    ("seconds", "later", "left"),
    [
        ({"3": 30, "6": 10}, 0.0, ["about 20 s left", "ended, 4 failed"]),
        ({"3": 30, "6": 10}, 0.5, ["about 60 s left", "4 failed, about 60 s left"]),
        ({"3": 30, "6": None}, 0.0, ["about 60 s left", "ended, 4 failed"]),  # by their number
    ],
)
def test_the_time_left_is_by_the_costs_of_groups(
    seconds, later, left, launched, monkeypatch, caplog
):
    threads = []

    def cost(planned, num_threads):
        threads.append(num_threads)
        found = seconds[str(planned.spec.algorithm.hyperparameters["num_sampled_action"])]
        return None if found is None else SimpleNamespace(seconds=lambda num_runs: found * num_runs)

    monkeypatch.setattr(launcher, "_cost", cost)
    key = "algo.num_sampled_action"
    jobs = [[f"{key}={n}", "trainer.num_threads=2"] for n in seconds]
    jobs = [[*job, f"seed={seed}"] for job in jobs for seed in (0, 1)]
    failed = RunStopped("no", 1)
    launched(jobs, Failing(failed, failed), (key, "seed"), later=later)
    for message, words in zip(caplog.messages[1:], left, strict=True):
        assert message.endswith(words)
    launched(jobs, Failing(*[failed] * 4, count=2), (key, "seed"))
    assert threads == [2, 2, 1, 1], "a worker process trains in one thread"


def test_a_users_mistake_stands_alone_only_where_it_stopped_every_run(launched):
    mistake = UserError("no such data set")
    jobs = [["seed=0"], ["seed=1"]]
    with pytest.raises(UserError, match="^no such data set$"):
        launched(jobs, Failing(mistake))
    failures = {Path("a"): mistake}
    assert launcher._failure(failures, 1, 3) is mistake, "the others have values"
    whole = launcher._failure(failures, 2, 3)
    assert (str(whole), whole.status) == ("1 of 3 runs failed:\n  a: no such data set", 1)


def test_a_damaged_run_is_not_counted_as_complete(launched, tmp_path, capsys):
    (tmp_path / "seed=0").mkdir()
    (tmp_path / "seed=0" / "summary.json").write_text("{}")
    launched([["seed=0"], ["seed=1"]], Failing(), plan=True)
    first, *_ = capsys.readouterr().out.splitlines()
    assert first.endswith(": 2 runs, 1 damaged, 1 to train in 1 group of 1")


@pytest.mark.parametrize(
    ("until", "step", "left"), [(None, 0, 60), (None, 20, 40), (30, 20, 10), (None, 60, 1)]
)
def test_a_run_costs_the_steps_that_it_has_left(until, step, left):
    spec = spec_of(compose("trainer.num_steps=60"))
    spec = launcher.replace(spec, until=until)
    cost = launcher._cost(Planned(0, [], spec, CohortKey("", step, 0, "")), 2)
    assert (cost.num_steps, cost.num_threads) == (left, 2)
