"""Launchers have the keys of Hydra's plugins: what they pass on, and what is refused."""

import threading
import time

import pytest
from hydra.core.plugins import Plugins

from bcq_exp.errors import RunStopped, UserError
from tests.commands import TINY, compose
from tests.forked import forked

LAUNCHERS = {
    "joblib": "joblib", "ray": "ray", "submitit_slurm": "submitit", "submitit_local": "submitit",
}  # fmt: skip


def workers(launcher, *overrides):
    """The workers of a launcher that Hydra makes of these overrides."""
    from bcq_exp.sweep import plugins

    pytest.importorskip(LAUNCHERS[launcher])
    plugins.register()
    given = ("hydra.sweep.dir=there", "hydra.job.name=mine", *overrides)
    cfg = compose(f"hydra/launcher={launcher}", *given, with_hydra=True)
    return Plugins.instance()._instantiate(cfg.hydra.launcher).workers


def test_joblib_is_given_its_plugins_keys():
    given = ("n_jobs=2", "verbose=5", "pre_dispatch='2*n_jobs'", "batch_size=3", "max_nbytes=10M")
    made = workers("joblib", *(f"hydra.launcher.{each}" for each in given))
    assert made.count == 2
    assert made._parallel == {
        "backend": "loky", "prefer": "processes", "require": None, "verbose": 5, "timeout": None,
        "pre_dispatch": "2*n_jobs", "batch_size": 3, "temp_folder": None, "max_nbytes": "10M",
        "mmap_mode": "r",
    }  # fmt: skip


def negated(number):
    time.sleep(0.1)  # so that the next group is taken when this one has ended
    return -number


@pytest.mark.parametrize("pre_dispatch", ["all", "1"])
def test_joblib_trains_every_group(pre_dispatch, tmp_path):
    made = workers(
        "joblib", "hydra.launcher.n_jobs=2", f"hydra.launcher.pre_dispatch={pre_dispatch}"
    )
    composed_by = set()

    def groups():
        for number in (-1, -2, -3, -4):
            composed_by.add(threading.current_thread())
            yield number

    assert sorted(made.run(negated, groups(), tmp_path)) == list(enumerate([1, 2, 3, 4]))
    assert composed_by == {threading.main_thread()}, "Hydra's global configuration is not for two"


def test_one_process_per_core_is_counted():
    made = workers("joblib", "hydra.launcher.n_jobs=-1")
    assert made.count == pytest.importorskip("joblib").cpu_count()


def test_ray_is_given_its_plugins_keys():
    made = workers(
        "ray",
        "hydra.launcher.ray.init.address=somewhere",
        "+hydra.launcher.ray.init.num_cpus=3",
        "+hydra.launcher.ray.remote.num_gpus=1",
    )
    assert (made._init["address"], made._init["num_cpus"]) == ("somewhere", 3)
    retried = {"max_retries": 3, "retry_exceptions": [RunStopped]}  # a node that is shut down
    assert made._remote == {"num_cpus": 1, "num_gpus": 1, **retried}
    others = {f"+hydra.launcher.ray.remote.{key}=2" for key in ("num_cpus", "max_retries")}
    assert workers("ray", *others)._remote == {**retried, "num_cpus": 2, "max_retries": 2}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("ray.init.address=head:x", "ray.init.address=head:x: Port could not be cast"),
        ("ray.init.address='ray://[::1'", "ray.init.address=ray://[::1: Invalid IPv6 URL"),
        ("+ray.remote.nope=1", "ray.remote: Invalid option keyword nope"),
    ],
)
def test_ray_is_refused_what_it_does_not_know_before_anything_is_written(given, said, tmp_path):
    prefix = "+" * given.startswith("+")
    made = workers("ray", f"{prefix}hydra.launcher.{given.lstrip('+')}")
    with pytest.raises(UserError) as refused:
        made.check(tmp_path, 2)
    assert str(refused.value).startswith(f"hydra.launcher.{said}")


def test_submitit_is_given_its_plugins_keys(monkeypatch):
    from submitit.slurm.slurm import SlurmExecutor

    from bcq_exp.sweep import slurm

    monkeypatch.setattr(SlurmExecutor, "affinity", classmethod(lambda cls: 2))  # without Slurm
    given = (
        "partition=gpu", "timeout_min=30", "gpus_per_node=2", "mem_gb=4", "qos=long", "setup=[x y]",
        "max_num_timeout=7", "signal_delay_s=60", "array_parallelism=5", "comment=why",
    )  # fmt: skip
    made = workers(
        "submitit_slurm",
        *(f"hydra.launcher.{each}" for each in given),
        "+hydra.launcher.additional_parameters.mail-type=END",
        "+hydra.launcher.nodelist=n1",
        "+hydra.launcher.python=other",
    )
    executor = made._executor()._executor
    assert executor.folder.parts[-3:] == ("there", ".submitit", "%j")
    assert (executor.max_num_timeout, executor.python) == (7, "other")
    assert executor.parameters == {
        "job_name": "mine", "time": 30, "nodes": 1, "ntasks_per_node": 1, "cpus_per_task": 4,
        "gpus_per_node": 2, "mem": "4GB", "stderr_to_stdout": False, "partition": "gpu",
        "qos": "long", "setup": ["x y"], "signal_delay_s": 60, "array_parallelism": 5,
        "comment": "why", "nodelist": "n1", "additional_parameters": {"mail-type": "END"},
    }  # fmt: skip
    assert slurm._flags(made._parameters) == {
        "time": "30", "nodes": "1", "ntasks-per-node": "1", "cpus-per-task": "4",
        "gpus-per-node": "2", "mem": "4096M", "partition": "gpu", "qos": "long", "comment": "why",
        "nodelist": "n1", "mail-type": "END",
    }  # fmt: skip


MISTAKES = [
    ("joblib", "prefer=threads", "prefer=threads: must be processes (workers are processes)"),
    ("joblib", "backend=threading", "must be one of loky, null (workers are processes)"),
    ("joblib", "timeout=3", "timeout=3.0: must be null (a group of runs trains to its end)"),
    ("joblib", "n_jobs=0", "n_jobs=0: must be an integer other than 0; -1 is one per core"),
    ("joblib", "pre_dispatch=0", "pre_dispatch=0: must be all, or at least 1, such as 4 or 2*n"),
    ("joblib", "pre_dispatch=2*", "pre_dispatch=2*: must be all, or at least 1, such as 4 or 2*n"),
    ("joblib", "nope=1", "hydra.launcher.nope: no such key"),
    ("joblib", "+nope=1", "hydra.launcher.nope: no such key; there are backend"),
    ("joblib", "workers.n_jobs=2", "workers.n_jobs was replaced by hydra.launcher.n_jobs"),
    ("ray", "num_workers=0", "num_workers=0: must be an integer at least 1"),
    ("ray", "workers.count=2", "workers.count was replaced by hydra.launcher.num_workers"),
    ("ray", "workers.init.address=x", "was replaced by hydra.launcher.ray.init.address"),
    ("submitit_slurm", "nodes=2", "nodes=2: must be 1 (a group of runs is one task of one node)"),
    ("submitit_slurm", "timeout_min=x", "timeout_min=x: must be an integer at least 1"),
    ("submitit_slurm", "submitit_folder=x", "submitit_folder=x: must be a path that ends in /%j"),
    (
        "submitit_slurm",
        "workers.parameters.slurm_partition=x",
        "slurm_partition was replaced by hydra.launcher.partition",
    ),
    ("submitit_local", "partition=x", "hydra.launcher.partition: no such key"),
]


@pytest.mark.parametrize(("launcher", "given", "said"), MISTAKES)
def test_a_key_that_cannot_be_honoured_is_refused(launcher, given, said, tmp_path):
    pytest.importorskip(LAUNCHERS[launcher])
    options = ("-m", "seed=0,1", f"hydra/launcher={launcher}", *TINY)
    key = f"hydra.launcher.{given.lstrip('+')}"
    for prefix in ("+",) if given[0] == "+" else ("", "+") if "workers." in given else ("",):
        done = forked(*options, f"{prefix}{key}", cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert said in done.stderr
    assert list(tmp_path.iterdir()) == []
