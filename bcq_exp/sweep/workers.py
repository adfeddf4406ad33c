"""Where cohorts are trained: in this process, or one each by the workers of an engine.

Every engine takes a function and its arguments, one group of jobs a call, and yields
``(index, result)`` as groups end. The function catches what its group raises; it may be called
again of a group whose worker died, and goes on where that one was. An exception is yielded for a
group that is given up.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, TypeVar

from bcq_exp.errors import UserError

log = logging.getLogger(__name__)

MOST_DEATHS = 3  # of workers, without a group that ended in between, until the rest is given up

T = TypeVar("T")
R = TypeVar("R")


class Workers(Protocol):
    """An engine that trains groups of runs."""

    count: int

    def settle(self, folder: Path) -> None:
        """Wait until nobody trains what an earlier launch of the sweep in ``folder`` began."""
        return None

    def check(self, folder: Path, count: int) -> None:
        """Look whether ``count`` groups of the sweep in ``folder`` can be trained.

        Raises:
            UserError: if the engine would refuse them, or its workers do not see the folder.
        """
        return None

    def run(
        self, function: Callable[[T], R], groups: Iterable[T], folder: Path
    ) -> Iterator[tuple[int, R | BaseException]]:
        """``function`` of each group, taken when there is somebody to train it.

        ``folder`` (the sweep's) is for the engine's own files.
        """
        raise NotImplementedError


class InProcess(Workers):
    """One group after the other, in this process."""

    count = 1

    def run(
        self, function: Callable[[T], R], groups: Iterable[T], folder: Path
    ) -> Iterator[tuple[int, R | BaseException]]:
        for index, group in enumerate(groups):
            yield index, function(group)


class Joblib(Workers):
    """Processes of this machine, which share its cores evenly.

    Args:
        n_jobs: how many; -1 is one a core.
    """

    def __init__(self, n_jobs: int) -> None:
        joblib = needs("joblib", "joblib")
        self.count = joblib.effective_n_jobs(n_jobs)

    def run(
        self, function: Callable[[T], R], groups: Iterable[T], folder: Path
    ) -> Iterator[tuple[int, R | BaseException]]:
        joblib = needs("joblib", "joblib")
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        left: dict[int, T] = {}

        def numbered() -> Iterator[tuple[int, T]]:
            for index, group in enumerate(groups):
                left[index] = group
                yield index, group

        groups_to_come, deaths = numbered(), 0
        while deaths < MOST_DEATHS:
            parallel = joblib.Parallel(
                n_jobs=self.count,
                return_as="generator_unordered",
                batch_size=1,
                pre_dispatch="all",  # groups are made in this thread, while the first are trained
            )
            work = chain(list(left.items()), groups_to_come)
            try:
                for index, result in parallel(
                    joblib.delayed(_numbered)(function, *item) for item in work
                ):
                    del left[index]
                    deaths = 0
                    yield index, result
                return
            except TerminatedWorkerError as error:  # and all others were ended with it
                deaths, death = deaths + 1, error
                log.warning("a worker process died: %s", _exit_codes(error))
        for index in [*left, *(index for index, _ in groups_to_come)]:
            yield index, death


class Ray(Workers):
    """Tasks of a Ray cluster: this machine's own, or one at an address.

    Args:
        count: groups at a time to divide the runs for.
        init: what ``ray.init`` takes, such as ``address`` and ``num_cpus``.
        remote: what a task asks for, such as ``num_cpus`` and ``num_gpus``.
    """

    def __init__(self, count: int, init: Mapping[str, Any], remote: Mapping[str, Any]) -> None:
        needs("ray", "ray")
        self.count, self._init, self._remote = count, dict(init), dict(remote)

    def run(
        self, function: Callable[[T], R], groups: Iterable[T], folder: Path
    ) -> Iterator[tuple[int, R | BaseException]]:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # no token for a cluster of one's own
        ray = needs("ray", "ray")
        ray.init(**self._init)
        try:
            task = ray.remote(**self._remote)(function)
            waiting = {task.remote(group): index for index, group in enumerate(groups)}
            while waiting:
                (done,), _ = ray.wait(list(waiting), num_returns=1)
                try:
                    result: Any = ray.get(done)
                except Exception as error:  # the worker died
                    result = error
                yield waiting.pop(done), result
        finally:
            ray.shutdown()


def _exit_codes(error: BaseException) -> str:
    """What joblib says of how workers ended."""
    lines = str(error).splitlines()
    return next((line for line in lines if "exit codes" in line), lines[0])


def _numbered(function: Callable[[T], R], index: int, group: T) -> tuple[int, R]:
    return index, function(group)


def needs(module: str, extra: str) -> Any:
    """The module of an engine.

    Raises:
        UserError: if it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(
            f"hydra/launcher: {module} is not installed; pip install 'bcq_exp[{extra}]'"
        ) from None
