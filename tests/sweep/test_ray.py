"""A sweep on a real Ray cluster of this machine: a head and two worker nodes, one of which dies."""

import os
import subprocess

import psutil
import pytest

from tests.commands import command, wait_until
from tests.sweep.test_slurm import NAMES, SAVED_EVERY, STEPS, SWEEP, RunRecord

pytestmark = [pytest.mark.faults, pytest.mark.timeout(150)]


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    utils = pytest.importorskip("ray.cluster_utils")
    cluster = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    yield cluster
    cluster.shutdown()


def test_a_cohort_of_a_dead_node_resumes_on_another_node(cluster, tmp_path):
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    on_ray = ("hydra/launcher=ray", f"hydra.launcher.ray.init.address={cluster.address}")
    folder = tmp_path / "multirun" / "s"
    process = subprocess.Popen(
        command(*SWEEP, *on_ray),
        cwd=tmp_path,
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_until(lambda: all((folder / name / "checkpoint.pt").exists() for name in NAMES))
    at_first = {name: RunRecord(folder / name).summary()["process"]["pid"] for name in NAMES}
    assert len({*at_first.values()}) == 2
    raylet = psutil.Process(at_first[NAMES[0]]).parent().pid
    (node,) = (n for n in nodes if n.all_processes["raylet"][0].process.pid == raylet)
    cluster.remove_node(node, allow_graceful=False)

    def now():
        return RunRecord(folder / NAMES[0]).summary()

    wait_until(lambda: now()["process"]["pid"] != at_first[NAMES[0]])
    assert now()["step"] >= SAVED_EVERY, "from its checkpoint"
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    for name in NAMES:
        summary = RunRecord(folder / name).summary()
        assert (summary["status"], summary["step"]) == ("completed", STEPS)
        moved = at_first[name] == at_first[NAMES[0]]
        assert (summary["process"]["pid"] != at_first[name]) == moved
