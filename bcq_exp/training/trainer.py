"""The trainer: the training loop of one engine and its runs."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import isnan
from typing import Any

import torch
from torch import Tensor

from bcq_exp import signals
from bcq_exp.engine.engine import Engine
from bcq_exp.errors import CannotWrite, RunStopped, first_line
from bcq_exp.formatting import counted, numbers
from bcq_exp.training.progress import Part, Progress, progress
from bcq_exp.training.run import Run
from bcq_exp.training.tensor_files import tensors_in

log = logging.getLogger(__name__)

# Seconds between checks of signals and losses: short enough for Ctrl-C and a bar. A GPU that goes
# from one log point to the next in less time is not synchronized in between.
LOOK_EVERY = 0.5


@dataclass(frozen=True)
class Cadence:
    """The number of steps and the intervals of other work, in gradient steps.

    Args:
        until: the step at which to stop for now; at ``num_steps`` the run is complete.
    """

    num_steps: int
    log_every: int
    eval_every: int
    checkpoint_every: int
    until: int

    def is_due(self, every: int, step: int) -> bool:
        """Whether work at every ``every`` steps, and at the end, is due after ``step``."""
        return step % every == 0 or step == self.num_steps

    def next_stop(self, step: int) -> int:
        """The next step at which something is due."""
        intervals = (self.log_every, self.eval_every, self.checkpoint_every)
        return min(*((step // every + 1) * every for every in intervals), self.until)


class Trainer:
    """Advances a cohort of runs to the end, logging, evaluating and saving each.

    A run that diverges leaves the cohort and keeps its last good checkpoint; the others continue. A
    signal (Ctrl-C, SIGTERM, or SIGUSR2 of schedulers) ends all runs with a checkpoint at the step
    reached; a second signal ends the process at once. A checkpoint precedes each evaluation; a run
    that was stopped between the two evaluates when it resumes.

    Args:
        window: metrics (K, steps, S) since the last row of ``train.csv``.
        num_threads: evaluations that may run at a time.
        part: the group that the runs are in a sweep; ``None`` outside sweeps.
    """

    def __init__(
        self,
        engine: Engine,
        runs: Sequence[Run],
        cadence: Cadence,
        window: Tensor,
        num_threads: int,
        part: Part | None,
    ) -> None:
        self.runs, self._part = runs, part
        self._engine = engine
        self._cadence = cadence
        self._signal: int | None = None
        self._saved: int | None = None  # the step of the last checkpoint
        self._threads = ThreadPoolExecutor(
            num_threads, initializer=torch.set_num_threads, initargs=(1,)
        )
        self._window = window

    def fit(self) -> None:
        """Train to the cadence's end; ``run.failure`` and summaries have the outcomes.

        Raises:
            RunStopped: after a signal, with its status.
            CannotWrite: if a run's files cannot be written.
        """
        names = [run.record.folder.name for run in self.runs]
        title = names[0] if len(names) == 1 else counted(len(names), "run")
        try:
            with (
                signals.requests(self._request_stop),
                progress(self._engine.step, self._cadence.until, title, self._part) as shown,
            ):
                self._train(shown)
            self._threads.shutdown()
            self._finish()
        except CannotWrite as error:
            for run in self.runs:
                run.abandon()
            raise CannotWrite(
                f"{error}; stopped at step {self._engine.step}, to continue from the last "
                f"checkpoint: {self.runs[0].resume_command}"
            ) from error

    def _train(self, shown: Progress) -> None:
        """Begin the runs and take their steps; a bug is recorded as their end."""
        try:
            for _, run in self._alive():
                run.write_summary("running", self._engine.step)
            self._loop(shown)
        except CannotWrite:
            raise
        except Exception as error:
            for _, run in self._alive():
                run.fail(self._engine.step, f"{type(error).__name__}: {first_line(error)}")
            raise

    def _loop(self, shown: Progress) -> None:
        cadence = self._cadence
        at_once = 1  # steps between checks of signals
        if cadence.is_due(cadence.eval_every, self._engine.step) and self._engine.step:
            self._evaluate(self._engine.step)
        while self._engine.step < cadence.until and self._signal is None and self._alive():
            first, since = self._engine.step, time.perf_counter()
            statistics = self._engine.advance(min(cadence.next_stop(first) - first, at_once))
            step, passed = self._engine.step, time.perf_counter() - since
            at_once = 1 + int((step - first) * LOOK_EVERY / passed)
            for _, run in self._alive():
                run.seconds += passed
            self._drop_diverged(first, statistics)
            self._window = torch.cat([self._window, statistics], 1)
            means = None
            if cadence.is_due(cadence.log_every, step):
                means = _means(self._window)
                for k, run in self._alive():
                    run.log_training(step, self._named(means[k]), self._window.shape[1])
                self._window = self._window[:, :0]
            evaluates = cadence.is_due(cadence.eval_every, step)
            saves = cadence.is_due(cadence.checkpoint_every, step) or step == cadence.until
            if saves or evaluates:
                self._save()
            if evaluates:
                self._evaluate(step)
            shown.update(step, None if means is None else self._losses(means))

    def _evaluate(self, step: int) -> None:
        """Evaluate every run, several at a time: acting releases Python's lock."""
        due = [(k, run) for k, run in self._alive() if run.is_due(step)]
        if not due:
            return
        if len(due) == 1:
            self._evaluate_run(step, due[0])
        else:
            list(self._threads.map(partial(self._evaluate_run, step), due))
        returns = [run.last_return for _, run in self._alive() if run.last_return is not None]
        if returns and len(self.runs) > 1:
            log.info(
                "step %d: returns %s to %s, mean %s, of %s",
                step,
                *numbers(min(returns), max(returns), sum(returns) / len(returns)),
                counted(len(returns), "run"),
            )
        elif returns and self._part is not None:  # of a sweep: the run's own line is in its log
            log.info(
                "step %d: return %s of %s",
                step,
                *numbers(returns[0]),
                self.runs[0].record.folder.name,
            )

    def _evaluate_run(self, step: int, numbered: tuple[int, Run]) -> None:
        k, run = numbered
        run.evaluate(step, self._engine.algorithm(k), lambda: self._signal is not None)

    def _named(self, means: Tensor) -> dict[str, float | None]:
        """Return metrics (S,) by name, ``None`` if no step reported them."""
        values = zip(self._engine.statistics, means.tolist(), strict=True)
        return {name: None if isnan(value) else value for name, value in values}

    def _losses(self, means: Tensor) -> dict[str, float]:
        """Return the losses among metrics (K, S), averaged over the runs that have not failed."""
        names, alive = self._engine.losses, [k for k, _ in self._alive()]
        return dict(zip(names, means[alive, : len(names)].mean(0).tolist(), strict=True))

    def _alive(self) -> list[tuple[int, Run]]:
        return [(k, run) for k, run in enumerate(self.runs) if run.failure is None]

    def _drop_diverged(self, first: int, statistics: Tensor) -> None:
        """Fail the runs with a loss that is not finite, naming the first such step."""
        finite = ~statistics[:, :, : len(self._engine.losses)].isinf().any(2)  # (K, steps)
        for k, run in self._alive():
            if not finite[k].all():
                step = first + 1 + int(finite[k].int().argmin())
                run.fail(step, f"a loss is not finite at step {step}")

    def _save(self) -> None:
        """Save a checkpoint of every run, unless the last one was of this step."""
        if self._saved == self._engine.step:
            return
        self._saved = self._engine.step
        for k, run in self._alive():
            state = self._engine.state_dict(k)
            if all_finite(state):
                run.save(self._engine.step, state, self._window[k])
            else:  # the losses were computed before the step that broke the weights
                run.fail(self._engine.step, f"a weight is not finite at step {self._engine.step}")

    def _finish(self) -> None:
        """Record the end of every run.

        Raises:
            RunStopped: if a signal was the reason.
        """
        if self._signal is None:
            is_complete = self._engine.step >= self._cadence.num_steps
            for _, run in self._alive():
                run.finish("completed" if is_complete else "stopped", self._engine.step)
            return
        self._save()
        for _, run in self._alive():
            run.finish("interrupted", self._engine.step)
        name = signal.Signals(self._signal).name
        raise RunStopped(
            f"stopped by {name} at step {self._engine.step}, checkpoint saved; to continue: "
            f"{self.runs[0].resume_command}",
            status=128 + self._signal,
        )

    def _request_stop(self, signum: int) -> None:
        self._signal = signum


def _means(window: Tensor) -> Tensor:
    """Average metrics (K, steps, S) over the steps that report them; NaN if none does."""
    return window.nanmean(1) if window.isnan().any() else window.mean(1)


def all_finite(state: Any) -> bool:
    """Whether every tensor in nested containers is free of NaN and infinity."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors_in(state))
