"""Signals that stop a process: as the end of a command in one line, or as a request to a loop.

A signal that comes twice within a second counts once: ``timeout``, for one, signals a process and
then its group, which the process is in.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

SAME_WITHIN = 1.0  # seconds
RAISED_AGAIN_AFTER = 0.1  # seconds

_last: dict[int, float] = {}  # when each signal was last acted on


class Interrupted(KeyboardInterrupt):
    """A signal that ends a command. Libraries clean up as after Ctrl-C."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


@contextmanager
def end_in_one_line() -> Iterator[None]:
    """End the process at SIGINT or SIGTERM with one line; a second signal kills it.

    Raises:
        SystemExit: with the status of a process that the signal ended.
    """
    if threading.current_thread() is threading.main_thread():
        for each in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(each) != signal.SIG_IGN:  # as in a shell's background job
                signal.signal(each, _end)
    try:
        yield
    except KeyboardInterrupt as error:
        signum: int = error.signum if isinstance(error, Interrupted) else signal.SIGINT
        logging.disable()  # of what libraries, stopped midway, have to say at the exit
        print(f"stopped by {signal.Signals(signum).name}", file=sys.stderr)
        sys.exit(128 + signum)


@contextmanager
def requests(request: Callable[[int], None], *names: str) -> Iterator[None]:
    """Turn signals into requests: ``request(signum)`` is called at the first of each.

    The next one does what it did before this block. In another thread than the main one, and for
    signals that the system lacks (SIGUSR2 on Windows), nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: set[int] = set()
    _last.clear()

    def handle(signum: int, _: Any) -> None:
        if _is_repeated(signum):
            return
        if signum in asked:
            _pass_on(signum, before[signum])
        else:
            asked.add(signum)
            request(signum)

    signums = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {int(signum): signal.signal(signum, handle) for signum in signums}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _end(signum: int, _: Any) -> None:
    if _is_repeated(signum):
        return
    signal.signal(signum, _kill)
    sys.unraisablehook = _raise_again
    raise Interrupted(signum)


def _kill(signum: int, _: Any) -> None:
    if not _is_repeated(signum):
        _pass_on(signum, signal.SIG_DFL)


def _raise_again(unraisable: Any) -> None:
    """Do not lose a signal that came in a callback whose exceptions the interpreter ignores."""
    error = unraisable.exc_value
    if not isinstance(error, Interrupted):
        sys.__unraisablehook__(unraisable)
        return
    signal.signal(error.signum, _end)
    _last.pop(error.signum, None)
    arguments = (os.getpid(), error.signum)
    with suppress(RuntimeError):  # no thread can be started: the process is ending
        threading.Timer(RAISED_AGAIN_AFTER, os.kill, arguments).start()


def _is_repeated(signum: int) -> bool:
    """Whether a signal is one that was acted on; counts it as acted on otherwise."""
    now = time.monotonic()
    if now - _last.get(signum, -SAME_WITHIN) < SAME_WITHIN:
        return True
    _last[signum] = now
    return False


def _pass_on(signum: int, handler: Any) -> None:
    """Let another handler have a signal, and those that follow."""
    signal.signal(signum, handler)
    _last.pop(signum)
    signal.raise_signal(signum)
