"""A Slurm cluster of this machine: a controller and two workers, everything of it in one folder.

Debian has what it takes in ``slurm-wlm`` and ``munge``. Nothing outside the folder is written, no
service of the system is touched, and whoever runs it is its only user; the ports are free ones.
Accounting (``sacct``) is off, as on many a small cluster.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
NODES = ("w1", "w2")
MAX_ARRAY = 6  # tasks of a job array
CONF = """
ClusterName=bcq
SlurmctldHost={host}
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool_%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd_%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd_%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=100000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MaxArraySize={max_array}
ReturnToService=2
KillWait=5
SlurmdTimeout=15
MessageTimeout=10
NodeName=w1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName=w2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
PartitionName=cpu Nodes=ALL Default=YES State=UP PriorityTier=1 MaxTime=UNLIMITED
PartitionName=urgent Nodes=ALL State=UP PriorityTier=2 MaxTime=UNLIMITED PreemptMode=OFF
"""


class Missing(Exception):
    """Why there can be no cluster here."""


@dataclass(frozen=True)
class Cluster:
    """A cluster that is up.

    Args:
        env: what a command needs in its environment to find it.
        unseen: a folder that its workers do not see; ``None`` where that cannot be arranged.
    """

    folder: Path
    env: Mapping[str, str]
    unseen: Path | None

    def ask(self, *words: str) -> str:
        """What a Slurm command says."""
        done = subprocess.run(words, env=self.env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    def tasks(self) -> dict[str, str]:
        """The state of every job, or task of an array, that is queued or runs."""
        lines = self.ask("squeue", "--noheader", "--array", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)  # type: ignore[misc]


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster for as long as the block lasts; ``folder`` is to be short: sockets lie there.

    Raises:
        Missing: where it cannot be had.
    """
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        raise Missing(f"no {', '.join(missing)} here (Debian: slurm-wlm, munge)")
    (folder / "state").mkdir(parents=True)
    folder.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    conf = folder / "slurm.conf"
    conf.write_text(
        CONF.format(
            folder=folder,
            host=socket.gethostname(),
            user=getpass.getuser(),
            ports=_free_ports(3),
            max_array=MAX_ARRAY,
        )
    )
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    env = {**os.environ, "PATH": path, "SLURM_CONF": str(conf)}
    munge = [f"--{name}={folder}/munge.{name}" for name in ("socket", "pid-file", "log-file")]
    munged = ["munged", "--foreground", "--force", f"--key-file={key}", *munge]
    with ExitStack() as daemons:
        daemons.enter_context(_daemon([*munged, f"--seed-file={folder}/munge.seed"], folder, env))
        daemons.enter_context(_daemon(["slurmctld", "-D"], folder, env))
        unseen = _hidden(folder / "unseen")
        for node in NODES:
            words = ["slurmd", "-D", "-N", node]
            daemons.enter_context(_daemon([*unseen, *words], folder, env))
        cluster = Cluster(folder, env, folder / "unseen" if unseen else None)
        _wait_for_nodes(cluster)
        try:
            yield cluster
        finally:
            subprocess.run(["scancel", "--user", getpass.getuser()], env=env, timeout=60)
            _wait_for_an_empty_queue(cluster)


def _hidden(folder: Path) -> list[str]:
    """What starts a program that sees an empty folder there, where the system lets us."""
    folder.mkdir()
    words = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(folder)]
    try:
        possible = subprocess.run([*words, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        possible = False
    return words if possible else []


@contextmanager
def _daemon(words: Sequence[str], folder: Path, env: Mapping[str, str]) -> Iterator[None]:
    with (folder / f"{words[0]}.out").open("ab") as log:
        process = subprocess.Popen(words, env=env, stdout=log, stderr=log, cwd=folder)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_nodes(cluster: Cluster, seconds: float = 30) -> None:
    end, said = time.monotonic() + seconds, ""
    while time.monotonic() < end:
        words = ["sinfo", "--noheader", "--Node", "--partition=cpu", "--format=%T"]
        done = subprocess.run(words, env=cluster.env, capture_output=True, text=True)
        said = done.stdout + done.stderr
        if done.stdout.split() == ["idle"] * len(NODES):
            return
        time.sleep(0.2)
    logs = sorted([*cluster.folder.glob("*.out"), *cluster.folder.glob("*.log")])
    tails = [f"{log.name}: {log.read_text(errors='replace')[-500:]}" for log in logs]
    raise Missing(f"Slurm did not come up in {seconds:.0f} s: {said.strip()}; {' | '.join(tails)}")


def _wait_for_an_empty_queue(cluster: Cluster, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while cluster.tasks() and time.monotonic() < end:
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as sockets:
        opened = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in opened:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in opened]
