"""Groups of runs as jobs of a Slurm cluster, through submitit.

A job outlives the process that submitted it, and may be stopped at any time: by a signal before its
time limit or preemption, by a user, or with its node. :class:`GoesOn` handles this in the job,
:class:`Submitit` in the launcher.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

import psutil

from bcq_exp import signals
from bcq_exp.config.keys import schema_of
from bcq_exp.config.plugin_schema import LocalConfig
from bcq_exp.errors import RunStopped, UserError, first_line
from bcq_exp.extras import require
from bcq_exp.formatting import counted
from bcq_exp.sweep import slurm
from bcq_exp.sweep.workers import MOST_DEATHS, SAVED_WITHIN, Workers, child_processes
from bcq_exp.training.folders import LOCK

log = logging.getLogger(__name__)

LOOK_EVERY = 5.0  # seconds between queries to the cluster
OF_EXECUTOR = ("slurm_max_num_timeout", "slurm_python")  # not of its parameters
PATIENCE = 5.0  # seconds that a worker's file may need to appear here after its job has ended

T = TypeVar("T")
R = TypeVar("R")


class Submitit(Workers):
    """Jobs of a Slurm cluster, or local processes in their place.

    A job whose worker died is submitted again and resumes from its runs' checkpoints; a cancelled
    job is not.

    Args:
        cluster: slurm, or local for processes of this machine.
        count: the number of groups to train at a time.
        jobs_folder: the folder of submitit's files, with its ``%j`` for the job.
        parameters: arguments of submitit's executor, such as ``timeout_min``, ``partition``,
            ``python``.
    """

    def __init__(
        self, cluster: str, count: int, jobs_folder: str, parameters: Mapping[str, Any]
    ) -> None:
        require("submitit", "slurm", f"hydra/launcher=submitit_{cluster}")
        self.count, self._cluster, self._parameters = count, cluster, dict(parameters)
        self._jobs_folder = Path(jobs_folder)

    @property
    def _is_slurm(self) -> bool:
        return self._cluster == "slurm"

    def wait_for_earlier_jobs(self, folder: Path) -> None:
        """Wait for jobs of an earlier, ended launch that are still in Slurm's queue."""
        said = False
        while self._is_slurm and (left := self._in_queue()):
            if not said:
                log.info(
                    "%s: waiting for %s of an earlier launch; to cancel them: %s",
                    folder,
                    counted(len(left), "job"),
                    slurm.cancel_command(left),
                )
            said = True
            time.sleep(LOOK_EVERY)

    def check(self, folder: Path, count: int) -> None:
        """Check that the cluster would accept the jobs and that a worker sees the folder.

        Raises:
            UserError: if not, or for a parameter that submitit does not know.
        """
        self._executor()
        ignored = [name for name in ("cpus_per_task", "mem_gb") if self._parameters.get(name)]
        if ignored and not self._is_slurm:
            log.warning("%s: no effect on processes of this machine", ", ".join(ignored))
        if self._is_slurm:
            slurm.check_jobs(self._parameters, count)
            if not slurm.check_seen(self._parameters, folder / LOCK):
                log.info("no free worker, so access to %s is not checked", folder)

    def run(
        self, function: Callable[[T], R], groups: Iterable[T], folder: Path
    ) -> Iterator[tuple[int, R | BaseException]]:
        from submitit.core.utils import FailedSubmissionError

        executor, goes_on = self._executor(), GoesOn(function)
        work = list(groups)  # an array is submitted whole
        try:
            jobs = executor.map_array(goes_on, work)
        except FailedSubmissionError as error:
            last = str(error).strip().splitlines()[-1]
            raise UserError(f"hydra.launcher: {last}") from None
        waiting = dict(enumerate(jobs))
        if self._is_slurm:
            ends = slurm.cancel_command([job.job_id for job in jobs])
            submitted = counted(len(jobs), "job")
            log.info("%s submitted, which run without this process; %s cancels", submitted, ends)
        try:
            yield from self._outcomes(executor, goes_on, work, waiting)
        finally:
            if not self._is_slurm and waiting:  # after a signal
                _end_processes()

    def _outcomes(
        self, executor: Any, goes_on: GoesOn, work: Sequence[Any], waiting: dict[int, Any]
    ) -> Iterator[tuple[int, Any]]:
        """Yield results as jobs end; submit those again that ended without one."""
        deaths = 0
        for index, state in self._ended(waiting):
            job = waiting[index]
            if state is None:
                deaths = 0
                job = waiting.pop(index)
                yield index, job.exception() or job.result()
                continue
            said = f"job {job.job_id} ended without a result ({state}); see {job.paths.stderr}"
            deaths += state != "PREEMPTED"
            if state.startswith("CANCELLED") or deaths >= MOST_DEATHS:
                yield index, RunStopped(said, status=1)
                del waiting[index]
            else:
                log.warning("%s; submitting it again", said)
                waiting[index] = executor.submit(goes_on, work[index])

    def _executor(self) -> Any:
        """Make submitit's executor.

        Raises:
            UserError: for a parameter that it does not know.
        """
        import submitit

        of_all = schema_of(LocalConfig)
        parameters = {
            name if name in of_all else f"{self._cluster}_{name}": value
            for name, value in self._parameters.items()
        }
        own = {name: parameters.pop(name) for name in OF_EXECUTOR if name in parameters}
        try:
            executor = submitit.AutoExecutor(self._jobs_folder, cluster=self._cluster, **own)
            executor.update_parameters(**parameters)
        except (NameError, ValueError, AssertionError, RuntimeError) as error:
            raise UserError(f"hydra.launcher: {first_line(error)}") from None
        return executor

    def _in_queue(self) -> list[str]:
        """Return the jobs that were submitted for the sweep and have not ended."""
        folder = self._jobs_folder.parent
        jobs = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
        states = slurm.states() if jobs else None
        return [] if states is None else [job for job in jobs if states[job] not in slurm.ENDED]

    def _ended(self, waiting: Mapping[int, Any]) -> Iterator[tuple[int, str | None]]:
        """Yield jobs as they end, until none is ``waiting``: with ``None``, or with the final state
        of a job without a result.
        """
        since: dict[int, float] = {}  # when a job was first seen to have ended
        looked = time.monotonic()
        while waiting:
            time.sleep(0.5)
            for index, job in list(waiting.items()):
                if job.paths.result_pickle.exists():
                    yield index, None
            if time.monotonic() - looked < LOOK_EVERY:
                continue
            looked = time.monotonic()
            gone = self._gone(waiting)
            since = {index: since.get(index, looked) for index in gone}
            for index, state in gone.items():
                if looked - since[index] >= PATIENCE:
                    del since[index]
                    yield index, state

    def _gone(self, waiting: Mapping[int, Any]) -> dict[int, str]:
        """Return the states of jobs that have ended for good."""
        if not self._is_slurm:
            return {index: job.state for index, job in waiting.items() if job.done()}
        if (states := slurm.states()) is None:
            return {}
        found = {index: states[job.job_id] for index, job in waiting.items()}
        return {index: state for index, state in found.items() if state in slurm.ENDED}


class GoesOn(Generic[T, R]):
    """A function as a job that may be stopped, and resumes when the cluster restarts it.

    At SIGUSR2, which precedes a time limit or preemption, runs save checkpoints and the job queues
    itself again. At SIGTERM they save checkpoints and the job ends without a result: the cluster
    restarts it (preempted) or not (cancelled).
    """

    def __init__(self, function: Callable[[T], R]) -> None:
        self._function = function

    def __call__(self, group: T) -> R:
        queue_again = signal.getsignal(signal.SIGUSR2)  # submitit's; it also exits
        try:
            with signals.interruptible():  # submitit's handlers ignore SIGTERM
                return self._function(group)
        except RunStopped as stopped:
            if stopped.status == 128 + signal.SIGUSR2 and callable(queue_again):
                queue_again(signal.SIGUSR2, None)
            if stopped.status > 128:
                raise SystemExit(
                    stopped.status
                ) from stopped  # skips submitit, which then writes no result
            raise

    def checkpoint(self, group: T) -> Any:
        """Return the job to requeue: the same one, which resumes from the runs' folders."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, group)


def _end_processes() -> None:
    """End the jobs of this machine, whose runs save their checkpoints."""
    jobs = child_processes("submitit")
    for job in jobs:
        with suppress(psutil.Error):  # it has just ended
            job.terminate()
    _, left = psutil.wait_procs(jobs, timeout=SAVED_WITHIN)
    for job in left:
        with suppress(psutil.Error):
            job.kill()
