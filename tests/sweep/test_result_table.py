"""The table of results at the end of a sweep."""

import math

import pytest
from hydra.core.utils import JobReturn, JobStatus

from bcq_exp.config.naming import run_folder, swept_values
from bcq_exp.errors import RunStopped
from bcq_exp.sweep.launcher import sweep_parts
from bcq_exp.sweep.result_table import MOST_SHOWN, Result, of_jobs, table


def job(value, *overrides):
    failed = isinstance(value, Exception)
    result = JobReturn(overrides=["name=s", *overrides])
    result.return_value = value
    result.status = JobStatus.FAILED if failed else JobStatus.COMPLETED
    return result


def test_runs_that_differ_in_their_seed_are_one_setting_and_the_best_is_first():
    failed = RunStopped("a loss is not finite", 1)
    jobs = [
        job(1.0, "+algo.lmbda=0.5", "seed=0"),
        job(3.0, "+algo.lmbda=0.5", "seed=1"),
        job(9.0, "+algo.lmbda=1", "seed=0"),
        job(failed, "+algo.lmbda=1", "seed=1"),
        job(failed, "+algo.lmbda=2", "seed=0"),
        job(math.nan, "+algo.lmbda=3", "seed=0"),
    ]
    assert table(of_jobs(jobs, ["algo.lmbda", "seed"]), "return_mean") == [
        "  lmbda    runs       return",
        "      1  1 of 2         9.00",
        "    0.5       2  2.00 ± 1.41",
        "      2  0 of 1             ",
        "      3  0 of 1             ",
    ]


def test_a_sweep_without_evaluations_has_no_table():
    assert table(of_jobs([job(math.nan, "seed=0")], ["seed"]), "return_mean") == []


def test_steps_are_shown_where_they_differ_and_only_the_first_settings():
    results = [Result({"algo.tau": str(k)}, [-k], 1, step=100 - k) for k in range(MOST_SHOWN + 2)]
    header, first, *_, last = table(results, "fqe")
    assert header.split() == ["tau", "step", "runs", "estimated", "value"]
    assert first.split() == ["0", "100", "1", "0.0"]
    assert last == "  and 2 more"


@pytest.mark.parametrize(
    ("overrides", "shown"),
    [
        (["algo.lmbda=0.5", "seed=0"], ["0.5", "0"]),
        (["actor.hidden_sizes=[64,64]", "optimizer@actor_optim=sgd"], ["_64,64_", "sgd"]),
        (["algo.tau=0.0012345678", "seed=1"], ["0.001235", "1"]),
        (["dataset.id=my/set-v0", "seed=2"], ["my_set-v0", "2"]),
    ],
)
def test_a_runs_folder_names_the_swept_values(overrides, shown):
    keys = [override.partition("=")[0] for override in overrides]
    name = run_folder(",".join(keys), overrides)
    names = [key.rpartition(".")[2] for key in keys]
    assert swept_values(name) == dict(zip(names, shown, strict=True))


@pytest.mark.parametrize("name", ["12", "mine", "2024-01-05_10-00-00-ab12", "n=3/seed=0"])
def test_other_names_have_no_swept_values(name):
    assert swept_values(name) == {}


def test_the_work_after_each_group_is_a_multiple_of_its_own():
    first, second, third = sweep_parts([4.0, 2.0, 1.0], later=1.0)
    assert [part.later for part in (first, second, third)] == [(3 + 7) / 4, (1 + 7) / 2, 7.0]
    assert (second.number, second.num_groups) == (2, 3)
    assert sweep_parts([0.1, 0.2, 0.3], later=0.0)[-1].later == 0.0
