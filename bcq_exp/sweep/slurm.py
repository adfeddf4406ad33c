"""Queries to a Slurm cluster by its commands.

Accounting (``sacct``) is not used, because many clusters lack it. ``squeue`` lists all jobs that
wait or run and, for some minutes, how others ended.
"""

from __future__ import annotations

import getpass
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bcq_exp.errors import UserError
from bcq_exp.formatting import counted

ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL"}
ENDED |= {"OUT_OF_MEMORY", "DEADLINE", "LAUNCH_FAILED", "REVOKED", "UNKNOWN"}
_KEYS = "hydra.launcher"
_FLAGS = {"timeout_min": "time", "mem_gb": "mem", "tasks_per_node": "ntasks_per_node"}
_NOT_FLAGS = {"array_parallelism", "setup", "teardown", "signal_delay_s", "srun_args", "use_srun"}
_NOT_FLAGS |= {"stderr_to_stdout", "additional_parameters", "max_num_timeout", "name", "python"}
# parameters that select nodes rather than resources
_PLACE = ("partition", "account", "qos", "constraint", "nodelist", "exclude", "reservation")
_PASSING = "node configuration is not available"  # also of nodes that are down temporarily
_UP = {"idle", "allocated", "mixed", "completing", "reserved", "planned"}
_PATIENCE = 20  # seconds in which a free worker can check the folder


def states() -> defaultdict[str, str] | None:
    """Query the states of this user's jobs, those of arrays by task, as ``12_0``.

    A job that Slurm does not know is ``UNKNOWN``. ``None`` if the cluster does not answer.
    """
    words = ["squeue", "--noheader", "--array", "--states=all", f"--user={getpass.getuser()}"]
    try:
        said = _ask(*words, "--format=%i %T")
    except (OSError, subprocess.SubprocessError):
        return None
    lines = (line.split() for line in said.splitlines())
    known = {line[0]: line[1] for line in lines if len(line) == 2}
    return defaultdict(lambda: "UNKNOWN", known)


def check_jobs(parameters: Mapping[str, Any], count: int) -> None:
    """Check that Slurm would accept ``count`` jobs of submitit's ``parameters``; submit none.

    Raises:
        UserError: if it would not.
    """
    if shutil.which("sbatch") is None:
        raise UserError(
            "hydra/launcher=submitit_slurm: sbatch is not installed; launch it on a Slurm cluster"
        )
    flags = _flags(parameters)
    array = [f"--array=0-{count - 1}"] if count > 1 else []
    given = [f"--{key}={value}" if value else f"--{key}" for key, value in flags.items()]
    words = ["sbatch", "--test-only", *array, *given, "--wrap=true"]
    done = subprocess.run(words, capture_output=True, text=True)
    said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    if done.returncode == 0 or (_PASSING in said and not _all_up(flags.get("partition"))):
        return
    if "partition name" in said:
        there = ", ".join(dict.fromkeys(_ask("sinfo", "--noheader", "--format=%R").split()))
        raise UserError(
            f"{_KEYS}.partition={flags.get('partition')}: the cluster has no such partition; "
            f"there are {there}"
        )
    if "array" in said and (most := _most_tasks()) is not None and count > most:
        raise UserError(
            f"{_KEYS}.num_workers: {count} groups of runs, but a job array of this "
            f"cluster has at most {counted(most, 'task')} (MaxArraySize); give at most {most}, "
            "and a larger hydra.launcher.group_size or auto"
        )
    raise UserError(f"{_KEYS}: Slurm rejects the jobs: {said.rpartition(': ')[2]}")


def check_seen(parameters: Mapping[str, Any], path: Path) -> bool:
    """Let a worker check for a file and this Python; return whether one was free.

    Raises:
        UserError: if it does not see them.
    """
    flags = _flags(parameters)
    place = [f"--{key}={flags[key]}" for key in _PLACE if key in flags]
    size = ["--nodes=1", "--ntasks=1", "--time=1", f"--immediate={_PATIENCE}", "--chdir=/"]
    look = 'for path; do test -e "$path" || echo "$path"; done; echo looked'
    seen = [str(path), sys.executable]
    words = ["srun", "--quiet", *place, *size, "sh", "-c", look, "sh", *seen]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=3 * _PATIENCE)
    except subprocess.TimeoutExpired:
        return False
    *missing, last = done.stdout.splitlines() or [""]
    if last != "looked":
        return False
    if missing:
        what = "the sweep's folder" if missing[0] == seen[0] else "this Python"
        where = path.parent if missing[0] == seen[0] else sys.executable
        raise UserError(
            f"{where}: workers of the Slurm cluster do not see {what}; launch from a file system "
            "that they share"
        )
    return True


def _flags(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Convert submitit's parameters to flags of ``sbatch``; an empty value is a bare flag."""
    flags: dict[str, str] = {}
    for key, value in parameters.items():
        if key in _NOT_FLAGS or value is None or value is False:
            continue
        flags[_FLAGS.get(key, key).replace("_", "-")] = "" if value is True else str(value)
    if parameters.get("mem_gb"):
        flags["mem"] = f"{int(parameters['mem_gb'] * 1024)}M"
    more = parameters.get("additional_parameters") or {}
    return flags | {str(key).replace("_", "-"): str(value) for key, value in more.items()}


def _all_up(partition: str | None) -> bool:
    where = [f"--partition={partition}"] if partition else []
    found = _ask("sinfo", "--noheader", *where, "--format=%T").split()
    return bool(found) and {*found} <= _UP


def _most_tasks() -> int | None:
    for line in _ask("scontrol", "show", "config").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "MaxArraySize":
            return int(value)
    return None


def _ask(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def cancel_command(jobs: Sequence[str]) -> str:
    """Return the command that cancels these jobs; tasks of an array together."""
    return "scancel " + " ".join(dict.fromkeys(job.partition("_")[0] for job in jobs))
