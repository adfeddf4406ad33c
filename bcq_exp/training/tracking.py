"""Weights & Biases as a mirror of the local files: its failing never stops a run, nor slows it.

W&B works in a thread beside training, which hands over rows and never waits for them. Whatever W&B
loses can be had from the local files again (:mod:`bcq_exp.training.wandb_export`).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, Literal, Protocol

from bcq_exp.config.naming import shortened
from bcq_exp.errors import first_line
from bcq_exp.ranges import LONGEST_WANDB_NAME, LONGEST_WANDB_TAG
from bcq_exp.training import wandb_service as service
from bcq_exp.training.record import RunRecord, sweep_name

log = logging.getLogger(__name__)

FLUSHED_AFTER = 5.0  # seconds from the end to the last byte in W&B's file


class Tracker(Protocol):
    """Where a run's rows go besides its folder."""

    id: str | None

    def log(self, prefix: str, row: Mapping[str, Any]) -> None:
        """A row with its ``step``; the other entries get ``prefix/`` before their names."""

    def finish(self, summary: Mapping[str, Any] | None) -> None:
        """The run's end, as ``summary.json`` has it; ``None`` where that cannot be written.

        :func:`wait_for` waits until it is sent.
        """

    def wait(self, deadline: float) -> bool:
        """Wait for what was handed over, until ``time.monotonic()`` is ``deadline``; if it is done.

        False as well where W&B cannot be counted on any more.
        """


class NoTracker:
    """Tracks nothing (``logger.mode=disabled``)."""

    id: str | None = None

    def log(self, prefix: str, row: Mapping[str, Any]) -> None:
        pass

    def finish(self, summary: Mapping[str, Any] | None) -> None:
        pass

    def wait(self, deadline: float) -> bool:
        return True


class Warnings:
    """What goes wrong with W&B, shown once for all runs that are trained together.

    Args:
        show: takes a line.
    """

    def __init__(self, show: Callable[[str], object] = log.warning) -> None:
        self._show = show
        self._shown: set[str] = set()
        self._lock = Lock()

    def __call__(self, what: str, reason: str, remedy: str) -> None:
        """One line for each thing that is to be done."""
        with self._lock:
            is_new = remedy not in self._shown
            self._shown.add(remedy)
        if is_new:
            self._show(f"W&B {what} ({reason}): {remedy}")


class WandbTracker:
    """One W&B run.

    Where W&B cannot be reached, is not logged in to, or fails later on, one warning is logged; the
    run goes on, recorded offline if that still works and in its local files in any case.

    Args:
        mode: offline or online.
        folder: the run's folder; W&B writes ``wandb/`` in it.
        sweep: the folder of the sweep that it lies in.
        id: W&B's id of the run to continue; ``None`` starts a new one.
        config: the resolved configuration, logged whole.
        identity: project, entity, group, job_type, tags and name, as ``wandb.init`` takes them.
        num_rows: rows that the run logged before, from which W&B's own ``_step`` counts on.
        warnings: of the runs that are trained together.
    """

    def __init__(
        self,
        *,
        mode: str,
        folder: Path,
        sweep: Path | None,
        id: str | None,
        config: Mapping[str, Any],
        identity: Mapping[str, Any],
        num_rows: int,
        warnings: Warnings,
    ) -> None:
        self.id: str | None = id or service.new_id()
        self._warn = warnings
        self._folders = f"{sweep}/*" if sweep else str(folder)
        command = f"`bcq_exp wandb mirror {sweep or folder}`"
        self._remedy = f"{command} writes its W&B run again"
        self._failed = False
        self._num_bytes = _size(config)
        self._num_rows = num_rows
        self._tasks: SimpleQueue[tuple[str, Callable[[Any], None]] | None] = SimpleQueue()
        self._thread = Thread(
            target=self._work,
            args=(mode, id is not None),
            kwargs={"dir": folder, "config": dict(config), **identity},
            daemon=True,  # the process ends even where W&B does not
        )
        self._thread.start()

    def log(self, prefix: str, row: Mapping[str, Any]) -> None:
        named = {k if k == "step" else f"{prefix}/{k}": v for k, v in row.items() if v is not None}
        number, self._num_rows = self._num_rows, self._num_rows + 1

        def send(run: Any) -> None:
            first = run.starting_step  # the server has the rows before it, which resuming repeats
            if number >= first or prefix == "ope":  # an estimate is of a run that has ended
                run.log(named, step=max(number, first), commit=True)

        if not self._failed:
            self._num_bytes += _size(named)
            self._tasks.put(("failed", send))

    def finish(self, summary: Mapping[str, Any] | None) -> None:
        last: dict[str, Any] = {}
        if summary is not None:
            last["status"] = summary["status"]
            for which in ("best", "last"):
                row = summary[which]
                last[f"{which}_return_mean"] = None if row is None else row["return_mean"]
        succeeded = last.get("status") in ("completed", "stopped")

        def end(run: Any) -> None:
            run.summary.update(last)
            try:
                run.finish(exit_code=0 if succeeded else 1)
            except TimeoutError as error:  # what is left lies in W&B's file, whole
                self._say("did not receive everything in time", error, self._sync("run"))

        self._tasks.put(("failed at the end", end))
        self._tasks.put(("did not write everything", self._check_written))
        self._tasks.put(None)

    def wait(self, deadline: float) -> bool:
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._lose("does not respond", TimeoutError("timeout"))
        return not self._failed

    def _work(self, mode: str, goes_on: bool, **arguments: Any) -> None:
        """Everything of W&B's, in its thread: start, then what is handed over, to the end."""
        run: Any = None
        with self._tolerant("cannot start"):
            run = self._start(mode, "allow" if goes_on else None, **arguments)
            run.define_metric("step")
            for prefix in ("train", "eval", "ope"):
                run.define_metric(f"{prefix}/*", step_metric="step")
            # the best is kept beside the last, which W&B's summary would otherwise show alone
            run.define_metric("eval/return_mean", step_metric="step", summary="max,last")
        while not self._failed and (task := self._tasks.get()) is not None:
            what, do = task
            with self._tolerant(what):
                do(run)

    def _start(self, mode: str, resume: Literal["allow"] | None, **arguments: Any) -> Any:
        """A W&B run; an offline one where it should be online and cannot."""
        if moved := service.find_cache():
            unwritable, instead = moved
            remedy = f"its own log and cache are in {instead}; WANDB_CACHE_DIR names another folder"
            self._warn("cannot write its cache", str(unwritable), remedy)
        settings = service.set_up(self._on_warning)

        def begin(mode: Literal["online", "offline"], id: str | None) -> Any:
            return service.begin_run(settings, mode=mode, id=id, resume=resume, **arguments)

        if mode == "offline":
            return begin("offline", self.id)
        id = self.id
        try:
            if not service.is_logged_in():  # init would ask for a key at the terminal
                raise RuntimeError("not logged in: run `wandb login`")
            id = service.new_id()  # for what follows: W&B's process does not let go of an id
            return begin("online", self.id)
        except Exception as error:
            remedy = self._remedy if resume else self._sync("offline-run")
            self._say("cannot go online", error, f"recording offline; {remedy}")
        if not resume:  # else the run keeps the id that the server knows
            self.id = id
        return begin("offline", id)

    def _check_written(self, run: Any) -> None:
        """W&B goes on in silence where its disk is full: see that its file can hold what it got.

        Raises:
            OSError: if it cannot.
        """
        path, deadline = Path(run.settings.sync_file), time.monotonic() + FLUSHED_AFTER
        while (size := path.stat().st_size) < self._num_bytes:
            if time.monotonic() > deadline:
                raise OSError(f"{size} of at least {self._num_bytes} bytes: is the disk full?")
            time.sleep(0.05)

    def _on_warning(self, message: str) -> None:
        """A warning of W&B's: mostly that it gave up uploading, which raises nothing."""
        reason = " ".join(message.removeprefix("wandb: WARNING ").split())
        self._warn("warns", reason, self._sync("run"))

    @contextmanager
    def _tolerant(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever W&B raises, training goes on
            self._lose(what, error)

    def _lose(self, what: str, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            self._say(what, error, f"the local files have the whole run; {self._remedy}")

    def _say(self, what: str, error: Exception, remedy: str) -> None:
        self._warn(what, first_line(error), remedy)

    def _sync(self, kind: str) -> str:
        option = "--include-online " if kind == "run" else ""
        return f"`wandb sync {option}{self._folders}/wandb/{kind}-*` uploads it"


def build_tracker(
    record: RunRecord, facts: Mapping[str, Any], warnings: Warnings, *, again: bool = False
) -> Tracker:
    """The tracker of a run, with what groups it in W&B without further clicks.

    What is longer than W&B takes, such as a data set's id as a tag, is shortened.

    Args:
        facts: what ``summary.json`` says of the run.
        again: whether all of its rows are to be logged, to a new offline run of its id.
    """
    logger = facts["config"]["logger"]
    if logger["mode"] == "disabled" and not again:
        return NoTracker()
    sweep, before = sweep_name(record.folder), record.summary()
    group = logger["group"] or sweep or facts["dataset"]["id"]
    tags = [*logger["tags"], facts["dataset"]["id"]]
    logged = ("dataset", "versions", "git_commit", "config_hash", "command")
    return WandbTracker(
        mode="offline" if again else logger["mode"],
        folder=record.folder,
        sweep=None if sweep is None else record.folder.parent,
        id=None if before is None else before["wandb_id"],
        config={**facts["config"], "run": {name: facts[name] for name in logged}},
        identity={
            "project": logger["project"],
            "entity": logger["entity"],
            "group": shortened(group, LONGEST_WANDB_NAME),
            "job_type": logger["job_type"],
            "tags": [shortened(tag, LONGEST_WANDB_TAG) for tag in tags],
            "name": shortened(record.folder.name, LONGEST_WANDB_NAME),
        },
        num_rows=0 if again else record.num_logged,
        warnings=warnings,
    )


def wait_for(trackers: Sequence[Tracker]) -> None:
    """See what was handed over to its end, for a bounded time."""
    deadline = time.monotonic() + service.patience()
    if not all([tracker.wait(deadline) for tracker in trackers]):
        service.end()


def _size(values: Mapping[str, Any]) -> int:
    """Bytes that a log of values has at least: W&B writes each as JSON, beside its name."""
    return len(json.dumps(values, separators=(",", ":"), default=str))
