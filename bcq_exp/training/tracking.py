"""Weights & Biases as a mirror of the local files: its failures never stop or slow a run.

W&B works in a separate thread; training passes rows to it and never waits. Rows that W&B loses can
be restored from the local files (:mod:`bcq_exp.training.wandb_export`).
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

from bcq_exp.config.naming import shortened
from bcq_exp.errors import first_line
from bcq_exp.internals import has_wandb_key
from bcq_exp.ranges import LONGEST_WANDB_NAME, LONGEST_WANDB_TAG
from bcq_exp.training import wandb_service as service
from bcq_exp.training.folders import sweep_of
from bcq_exp.training.record import RunRecord

log = logging.getLogger(__name__)

FLUSHED_AFTER = 5.0  # seconds from the end to the last byte in W&B's file


class Tracker:
    """Receives a run's rows besides its folder; this one drops them (``logger.mode=disabled``).

    Args:
        id: W&B's id of the run, if it has one.
    """

    def __init__(self, id: str | None = None) -> None:
        self.id = id

    def log(self, prefix: str, row: Mapping[str, Any]) -> None:
        """Log a row with its ``step``; names of other entries get ``prefix/``."""

    def finish(self, summary: Mapping[str, Any] | None) -> None:
        """End the run with its ``summary.json``; ``None`` if that cannot be written.

        :func:`wait_for` waits until it is sent.
        """

    def wait(self, deadline: float) -> bool:
        """Wait until ``time.monotonic()`` is ``deadline``; return whether all rows were logged.

        The result is False too if W&B has failed.
        """
        return True


class Warnings:
    """Warnings about W&B, shown once for all runs that are trained together.

    Args:
        show: shows a line.
    """

    def __init__(self, show: Callable[[str], object] = log.warning) -> None:
        self._show = show
        self._shown: set[str] = set()
        self._lock = Lock()

    def __call__(self, what: str, reason: str, remedy: str) -> None:
        """Show a warning, once for each remedy."""
        with self._lock:
            is_new = remedy not in self._shown
            self._shown.add(remedy)
        if is_new:
            self._show(f"W&B {what} ({reason}): {remedy}")


class WandbTracker(Tracker):
    """One W&B run.

    If W&B cannot be reached, has no login, or fails later, one warning is logged. The run
    continues, recorded offline if that works, and in its local files in any case.

    Args:
        mode: offline or online.
        folder: the run's folder; W&B writes ``wandb/`` in it.
        sweep: the folder of the run's sweep.
        id: W&B's id of the run to continue; ``None`` starts a new one.
        config: the resolved configuration, logged completely.
        identity: project, entity, group, job_type, tags and name, as ``wandb.init`` takes them.
        num_rows: rows that the run logged before, from which W&B's ``_step`` continues.
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
        super().__init__(id or new_id())
        self._warn = warnings
        self._folders = str(folder)
        if sweep:
            depth = len(folder.absolute().relative_to(sweep).parts)
            self._folders = f"{sweep}{'/*' * depth}"
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
            daemon=True,  # the process can end even if W&B does not
        )
        self._thread.start()

    def log(self, prefix: str, row: Mapping[str, Any]) -> None:
        named = {k if k == "step" else f"{prefix}/{k}": v for k, v in row.items() if v is not None}
        number, self._num_rows = self._num_rows, self._num_rows + 1

        def send(run: Any) -> None:
            first = run.starting_step  # a resumed run repeats the rows before it
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
            if summary["best"] is not None:  # W&B's own maximum is of the rows since the last start
                found = {"max": last["best_return_mean"], "last": last["last_return_mean"]}
                last["eval/return_mean"] = found
        succeeded = last.get("status") in ("completed", "stopped")

        def end(run: Any) -> None:
            run.summary.update(last)
            try:
                run.finish(exit_code=0 if succeeded else 1)
            except TimeoutError as error:  # the rest is in W&B's file
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
        """Do W&B's work in its thread: start a run, log rows, finish."""
        run: Any = None
        with self._tolerant("cannot start"):
            run = self._start(mode, goes_on, **arguments)
            run.define_metric("step")
            for prefix in ("train", "eval", "ope"):
                run.define_metric(f"{prefix}/*", step_metric="step")
            # keep the best as well as the last, which W&B's summary shows by default
            run.define_metric("eval/return_mean", step_metric="step", summary="max,last")
        while not self._failed and (task := self._tasks.get()) is not None:
            what, do = task
            with self._tolerant(what):
                do(run)

    def _start(self, mode: str, goes_on: bool, **arguments: Any) -> Any:
        """Start a W&B run; an offline one if online fails."""
        if moved := service.find_cache():
            unwritable, instead = moved
            remedy = f"its own log and cache are in {instead}; WANDB_CACHE_DIR names another folder"
            self._warn("cannot write its cache", str(unwritable), remedy)
        arguments |= {
            "settings": service.set_up(self._on_warning),
            "reinit": "create_new",  # next to others
            "resume": "allow" if goes_on else None,
        }
        import wandb

        id = self.id
        if mode == "online":
            try:
                if not has_wandb_key():
                    raise RuntimeError("not logged in: run `wandb login`")
                id = new_id()  # W&B's process keeps the first id reserved
                return wandb.init(mode="online", id=self.id, **arguments)
            except Exception as error:
                remedy = self._remedy if goes_on else self._sync("offline-run")
                self._say("cannot go online", error, f"recording offline; {remedy}")
            if not goes_on:  # else the run keeps the id that the server knows
                self.id = id
        return wandb.init(mode="offline", id=id, **arguments)

    def _check_written(self, run: Any) -> None:
        """Check that W&B's file has all rows, because W&B ignores a full disk.

        Raises:
            OSError: if it has not.
        """
        path, deadline = Path(run.settings.sync_file), time.monotonic() + FLUSHED_AFTER
        while (size := path.stat().st_size) < self._num_bytes:
            if time.monotonic() > deadline:
                raise OSError(f"{size} of at least {self._num_bytes} bytes: is the disk full?")
            time.sleep(0.05)

    def _on_warning(self, message: str) -> None:
        """Handle a warning of W&B, mostly of a failed upload, which raises nothing."""
        reason = " ".join(message.removeprefix("wandb: WARNING ").split())
        self._warn("warns", reason, self._sync("run"))

    @contextmanager
    def _tolerant(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # training continues after any error of W&B
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
    """Build the tracker of a run, with its group, job type and tags in W&B.

    Values that exceed W&B's limits, such as a data set's id as a tag, are shortened.

    Args:
        facts: the fields of ``summary.json``.
        again: whether to log all rows again, to a new offline run of its id.
    """
    logger = facts["config"]["logger"]
    before = record.summary()
    id = None if before is None else before.get("wandb_id")
    if logger["mode"] == "disabled" and not again:
        return Tracker(id)
    tags = [*logger["tags"], facts["dataset"]["id"]]
    logged = ("dataset", "versions", "git_commit", "config_hash", "command")
    return WandbTracker(
        mode="offline" if again else logger["mode"],
        folder=record.folder,
        sweep=sweep_of(record.folder),
        id=id,
        config={**facts["config"], "run": {name: facts[name] for name in logged}},
        identity={
            "project": logger["project"],
            "entity": logger["entity"],
            "group": group_of(record.folder, facts),
            "job_type": logger["job_type"],
            "tags": [shortened(tag, LONGEST_WANDB_TAG) for tag in tags],
            "name": shortened(record.folder.name, LONGEST_WANDB_NAME),
        },
        num_rows=0 if again else len(record.rows("train")) + len(record.rows("eval")),
        warnings=warnings,
    )


def group_of(folder: Path, facts: Mapping[str, Any]) -> str:
    """Return a run's group in W&B: ``logger.group``, or its sweep, or its data set.

    Args:
        facts: the fields of ``summary.json``.
    """
    sweep = sweep_of(folder)
    place = facts["dataset"]["id"] if sweep is None else sweep.name
    return shortened(facts["config"]["logger"]["group"] or place, LONGEST_WANDB_NAME)


def new_id() -> str:
    """Return a new id for a W&B run."""
    return secrets.token_hex(4)


def wait_for(trackers: Sequence[Tracker]) -> bool:
    """Wait for a bounded time until all rows are logged; return whether they are."""
    deadline = time.monotonic() + service.patience()
    are_logged = all([tracker.wait(deadline) for tracker in trackers])
    if not are_logged:
        service.end()
    return are_logged


def _size(values: Mapping[str, Any]) -> int:
    """The least bytes of a log of values: W&B writes each as JSON, with its name."""
    return len(json.dumps(values, separators=(",", ":"), default=str))
