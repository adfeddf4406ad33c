"""Workers that train cohorts: this process, joblib or Ray.

Each takes a function and groups of jobs, calls the function once per group, and yields
``(index, result)`` as groups end. The function catches errors of its group; it may be called again
for a group whose worker died, and resumes it. For a group that is given up, an exception is
yielded.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from itertools import chain
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import psutil

from bcq_exp import signals
from bcq_exp.errors import RunStopped, UserError, first_line
from bcq_exp.extras import require
from bcq_exp.files import write_atomically
from bcq_exp.training.folders import LOCK

log = logging.getLogger(__name__)

LOOK_EVERY = 1.0  # seconds between checks for signals
SAVED_WITHIN = 60.0  # seconds for stopped workers to save their checkpoints
MOST_DEATHS = 3  # consecutive deaths of workers, after which the rest is given up

T = TypeVar("T")
R = TypeVar("R")


class Workers(Protocol):
    """The interface of workers that train groups of runs."""

    count: int

    def wait_for_earlier_jobs(self, folder: Path) -> None:
        """Wait until no job of an earlier launch of the sweep in ``folder`` runs."""
        return None

    def check(self, folder: Path, count: int) -> None:
        """Check that ``count`` groups of the sweep in ``folder`` can be trained.

        Raises:
            UserError: if they would be refused, or workers do not see the folder.
        """
        return None

    def run(
        self, function: Callable[[T], R], groups: Iterable[T], folder: Path
    ) -> Iterator[tuple[int, R | BaseException]]:
        """Call ``function`` with each group, taken when a worker is free.

        ``folder`` (the sweep's) is for the workers' own files.
        """
        raise NotImplementedError


class InProcess(Workers):
    """Trains one group after the other in this process."""

    count = 1

    def run(
        self, function: Callable[[T], R], groups: Iterable[T], folder: Path
    ) -> Iterator[tuple[int, R | BaseException]]:
        for index, group in enumerate(groups):
            yield index, function(group)


class Joblib(Workers):
    """Processes of this machine, which share its cores evenly.

    Args:
        n_jobs: the number of processes; -1 is one per core.
        parallel: other arguments of ``joblib.Parallel``.
    """

    def __init__(self, n_jobs: int, **parallel: Any) -> None:
        joblib = require("joblib", "joblib", "hydra/launcher=joblib")
        if not isinstance(n_jobs, int) or n_jobs == 0:
            raise UserError(
                f"hydra.launcher.n_jobs={n_jobs}: must be an integer other than 0; -1 is "
                "one per core"
            )
        self.count = joblib.effective_n_jobs(n_jobs)
        self._parallel = {name: _as_number(value) for name, value in parallel.items()}

    def run(
        self, function: Callable[[T], R], groups: Iterable[T], folder: Path
    ) -> Iterator[tuple[int, R | BaseException]]:
        import joblib

        left: dict[int, T] = {}

        def numbered() -> Iterator[tuple[int, T]]:
            for index, group in enumerate(groups):
                left[index] = group
                yield index, group

        asked: int | None = None  # the signal that was sent to the workers
        stopped: RunStopped | None = None

        def stop(signum: int) -> None:
            nonlocal asked
            asked = signum
            for worker in child_processes("popen_loky"):
                with suppress(psutil.Error):  # it has just ended
                    worker.send_signal(signum)

        resource_tracker.ensure_running()  # it unblocks signals when it starts
        groups_to_come, deaths = numbered(), 0
        options = {"pre_dispatch": "all"} | self._parallel
        with signals.requests(stop):
            while deaths < MOST_DEATHS and asked is None:
                parallel = joblib.Parallel(
                    n_jobs=self.count, return_as="generator_unordered", **options
                )
                work: Iterable[tuple[int, T]] = chain(list(left.items()), groups_to_come)
                if options["pre_dispatch"] != "all":  # a thread of joblib takes later groups
                    work = list(work)  # composed in this thread, as all groups are
                try:
                    with signals.blocked():  # in the workers too, where no group is trained
                        results = parallel(
                            joblib.delayed(_in_worker)(function, *item) for item in work
                        )
                    for index, result in results:
                        del left[index]
                        deaths = 0
                        if isinstance(result, RunStopped):
                            stopped = stopped or result
                            if asked is None:  # it was sent to a worker alone
                                stop(stopped.status - 128)
                        else:
                            yield index, result
                    break
                except BrokenProcessPool as error:  # all other workers ended with it
                    deaths, death = deaths + 1, error
                    log.warning("a worker process died: %s", _exit_codes(error))
        if asked is not None:
            raise stopped or _stopped_by(asked)
        for index in [*left, *(index for index, _ in groups_to_come)]:
            yield index, death


_stopped: RunStopped | None = None  # the signal that ended a group here; no other is trained


def _in_worker(function: Callable[[T], R], index: int, group: T) -> tuple[int, R | RunStopped]:
    """Call ``function(group)``; return its result, or the signal that stopped it or an earlier
    group of this worker."""
    global _stopped
    if _stopped is None:
        try:
            with signals.interruptible():
                return index, function(group)
        except RunStopped as stopped:
            if not stopped.by_signal:
                raise
            _stopped = stopped
    return index, _stopped


def _stopped_by(signum: int) -> RunStopped:
    return RunStopped(f"stopped by {signal.Signals(signum).name}", status=128 + signum)


def child_processes(word: str) -> list[psutil.Process]:
    """Return the processes below this one that have a word in their command."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            if any(word in part for part in child.cmdline()):
                found.append(child)
    return found


class Ray(Workers):
    """Tasks of a Ray cluster: this machine's own, or one at an address.

    A task whose worker or node died resumes elsewhere from its runs' checkpoints. Groups are passed
    by files in the shared folder, so that Ray's object store stays empty.

    Args:
        count: the number of groups to train at a time.
        init: arguments of ``ray.init``, such as ``address`` and ``num_cpus``.
        remote: arguments of ``ray.remote``, such as ``num_cpus`` and ``num_gpus``.
    """

    def __init__(self, count: int, init: Mapping[str, Any], remote: Mapping[str, Any]) -> None:
        require("ray", "ray", "hydra/launcher=ray")
        self.count = count
        self._init = {"include_dashboard": False, "log_to_driver": False, **init}
        # an orderly shutdown of a node stops its runs by a signal; they resume elsewhere
        retry = {"max_retries": MOST_DEATHS, "retry_exceptions": [RunStopped]}
        self._remote = {"num_cpus": 1, **retry, **remote}

    def check(self, folder: Path, count: int) -> None:
        """Check the arguments and, without Ray's retries of a minute, the address.

        Raises:
            UserError: for an unknown argument, or if no cluster answers at the address.
        """
        self._task()
        address = str(self._init.get("address") or "")
        with self._refused():
            parts = urlsplit(address if "//" in address else f"//{address}")
            if parts.hostname and parts.port:  # which raises for a port that is no number
                socket.create_connection((parts.hostname, parts.port), timeout=10).close()

    def run(
        self, function: Callable[[T], R], groups: Iterable[T], folder: Path
    ) -> Iterator[tuple[int, R | BaseException]]:
        ray = self._connected()
        asked: list[int] = []  # signals
        try:
            with signals.requests(asked.append):  # in the place of Ray's own handlers
                self._check_nodes(ray, folder / LOCK)
                task, waiting = self._task(), {}
                for index, group in enumerate(groups):
                    path = folder / ".ray" / f"{index}.pickle"
                    path.parent.mkdir(exist_ok=True)
                    write_atomically(path, pickle.dumps(group))
                    waiting[task.remote(function, path)] = index
                while waiting and not asked:
                    done, _ = ray.wait(list(waiting), num_returns=1, timeout=LOOK_EVERY)
                    for each in done:
                        try:
                            result: Any = ray.get(each)
                        except ray.exceptions.RayTaskError as error:
                            result = error.cause
                        except Exception as error:  # workers died, again and again
                            result = error
                        yield waiting.pop(each), result
                for each in waiting:
                    ray.cancel(each)  # as Ctrl-C: its runs save their checkpoints
                if waiting:
                    ray.wait(list(waiting), num_returns=len(waiting), timeout=SAVED_WITHIN)
            if asked:
                raise _stopped_by(asked[0])
        finally:
            ray.shutdown()

    def _task(self) -> Any:
        """Make Ray's task that trains a group.

        Raises:
            UserError: for an argument that Ray does not know.
        """
        import ray

        try:
            return ray.remote(**self._remote)(_of_file)
        except (ValueError, TypeError) as error:
            raise UserError(f"hydra.launcher.ray.remote: {first_line(error)}") from None

    def _connected(self) -> Any:
        """Connect to the cluster; return Ray.

        Raises:
            UserError: if no cluster answers at the address.
        """
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a local cluster needs no token
        import ray

        with self._refused():
            ray.init(**self._init)
        return ray

    @contextmanager
    def _refused(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            address = self._init.get("address")
            place = "" if address is None else f".address={address}"
            raise UserError(f"hydra.launcher.ray.init{place}: {first_line(error)}") from None

    def _check_nodes(self, ray: Any, path: Path) -> None:
        """Let every node check for a file in the sweep's folder.

        Raises:
            UserError: if a node does not see it.
        """
        nodes = [node for node in ray.nodes() if node["Alive"]]
        for key, name in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
            asked = self._remote.get(key) or 0
            most = max(node["Resources"].get(name, 0) for node in nodes)
            if asked > most:
                log.warning(  # allowed, because an autoscaler may add nodes
                    "hydra.launcher.ray.remote.%s=%s: waiting for a node with as many; nodes "
                    "of this Ray cluster have at most %g",
                    key,
                    asked,
                    most,
                )
        from ray.util import scheduling_strategies as strategies

        look = ray.remote(num_cpus=0)(_sees)
        for node in nodes:
            there = strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            if not ray.get(look.options(scheduling_strategy=there).remote(str(path))):
                raise UserError(
                    f"{path.parent}: Ray's node {node['NodeManagerAddress']} does not see the "
                    "sweep's folder; launch from a file system that all nodes share"
                )


def _sees(path: str) -> bool:
    return os.path.exists(path)


def _of_file(function: Callable[[T], R], path: Path) -> R:
    """Call ``function`` with the content of a file in the sweep's folder, written by bcq_exp."""
    return function(pickle.loads(path.read_bytes()))


def _exit_codes(error: BaseException) -> str:
    """Return joblib's message on how workers ended."""
    lines = str(error).splitlines()
    return next((line for line in lines if "exit codes" in line), lines[0])


def _as_number(value: Any) -> Any:
    """Convert a number that joblib's plugin has as text."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value
