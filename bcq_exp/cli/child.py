"""Run other bcq_exp commands as a user would type them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Thread
from typing import IO

from bcq_exp.signals import handled

POLL_EVERY = 0.05  # seconds
RELAYED_WITHIN = (
    5.0  # seconds to read on after a command's end, if a leftover process keeps its output open
)
HANDED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@dataclass(frozen=True)
class Command:
    """A bcq_exp command with its arguments: ``python -m bcq_exp...``."""

    module: str
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of its run or sweep, else its module."""
        named = (word[5:] for word in self.arguments if word.startswith("name="))
        return next(named, self.module)

    @property
    def words(self) -> list[str]:
        """The command line, for this Python."""
        return [sys.executable, "-m", self.module, *self.arguments]


def run_all(commands: Sequence[Command], at_once: int = 1, *, silent: bool = False) -> list[int]:
    """Run commands, which report their own errors; return their exit statuses.

    A signal is passed on to all running commands. After a signal, or a status other than 0 and 1
    (a user's mistake), no further command starts.

    Args:
        at_once: commands that run at a time. With several, each line begins with the command's
            name, and there is no progress bar, because the output is no terminal.
        silent: hide the output, but show errors.

    Raises:
        SystemExit: after a signal, with its status.
    """
    waiting, children, statuses = list(commands), _Children(), []
    out = subprocess.DEVNULL if silent else subprocess.PIPE if at_once > 1 else None
    with handled(children.hand_on, HANDED_ON):
        while (waiting and children.signalled is None) or children.running:
            while waiting and len(children.running) < at_once and children.signalled is None:
                children.start(waiting.pop(0), out)
            time.sleep(POLL_EVERY)
            for status in children.ended():
                statuses.append(status)
                if status > 1:
                    waiting.clear()
    if children.signalled is not None:
        sys.exit(128 + children.signalled)
    return statuses


def run(command: Command) -> None:
    """Run one command.

    Raises:
        SystemExit: with its status, if that is not 0.
    """
    (status,) = run_all([command])
    if status:
        sys.exit(status)


@dataclass
class _Children:
    """The processes of commands, the threads that show their lines, and the last signal."""

    running: list[subprocess.Popen] = field(default_factory=list)
    relays: dict[int, Thread] = field(default_factory=dict)
    signalled: int | None = None

    def start(self, command: Command, out: int | None) -> None:
        # its own process group, workers included, as a terminal would signal
        process = subprocess.Popen(command.words, stdout=out, start_new_session=True, text=True)
        self.running.append(process)
        if process.stdout is not None:
            arguments = (process.stdout, command.name)
            self.relays[process.pid] = relay = Thread(target=_relay, args=arguments, daemon=True)
            relay.start()
        if self.signalled is not None:  # the signal came while it was started
            self._signal(process, self.signalled)

    def ended(self) -> Iterator[int]:
        """Return the exit statuses of processes that ended since the last call."""
        for process in [p for p in self.running if p.poll() is not None]:
            self.running.remove(process)
            if process.pid in self.relays:
                self.relays.pop(process.pid).join(RELAYED_WITHIN)
            status = process.returncode
            yield 128 - status if status < 0 else status

    def hand_on(self, signum: int, _: object) -> None:
        self.signalled = signum
        for process in list(self.running):
            self._signal(process, signum)

    def _signal(self, process: subprocess.Popen, signum: int) -> None:
        if signum == signal.SIGHUP:
            signum = signal.SIGTERM  # a run saves a checkpoint at this signal
        with suppress(ProcessLookupError):  # it has just ended
            os.killpg(process.pid, signum)


def _relay(lines: IO[str], name: str) -> None:
    """Show the lines of a command, each after its name."""
    for line in lines:
        print(f"{name}: {line}", end="", flush=True)
