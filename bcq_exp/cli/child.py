"""Commands that give other commands: the very ones that a person would type."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

POLL_EVERY = 0.05  # seconds


@dataclass(frozen=True)
class Command:
    """One of ours, with its arguments: ``python -m bcq_exp...``."""

    module: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        """As a shell takes it."""
        return f"python -m {self.module} {shlex.join(self.arguments)}"

    @property
    def words(self) -> list[str]:
        """For this Python."""
        return [sys.executable, "-m", self.module, *self.arguments]


def run_all(commands: Sequence[Command], at_once: int = 1, *, silent: bool = False) -> list[int]:
    """Run commands, which say themselves what goes wrong; returns their exit statuses.

    A signal is handed on to all that run; after one, or a status other than 0 and 1 (a mistake, a
    signal), no further command is begun.

    Args:
        at_once: how many run at a time.
        silent: their output is not shown, their errors are.
    """
    waiting, running = list(enumerate(commands)), dict[int, subprocess.Popen]()
    statuses: dict[int, int] = {}
    out = subprocess.DEVNULL if silent else None
    with _signals_handed_on(running):
        while waiting or running:
            while waiting and len(running) < at_once:
                index, command = waiting.pop(0)
                # its own group, workers included: what a terminal would signal
                running[index] = subprocess.Popen(command.words, stdout=out, start_new_session=True)
            time.sleep(POLL_EVERY)
            for index in [i for i, process in running.items() if process.poll() is not None]:
                status = running.pop(index).returncode
                statuses[index] = 128 - status if status < 0 else status
                if statuses[index] > 1:
                    waiting.clear()
    return [statuses[index] for index in sorted(statuses)]


def run(command: Command) -> None:
    """Run one.

    Raises:
        SystemExit: with its status, where that is not 0.
    """
    (status,) = run_all([command])
    if status:
        sys.exit(status)


@contextmanager
def _signals_handed_on(running: dict[int, subprocess.Popen]) -> Iterator[None]:
    def hand_on(signum: int, _: object) -> None:
        for process in list(running.values()):
            os.killpg(process.pid, signum)

    before = {s: signal.signal(s, hand_on) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
