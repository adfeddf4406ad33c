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
from _thread import start_new_thread
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SAME_WITHIN = 1.0  # seconds
LOOK_EVERY = 0.1  # seconds

_has_ended, _again = threading.Event(), threading.Event()
_stopped_by: int | None = None
_last: dict[int, float] = {}  # when each signal was last acted on


class Interrupted(KeyboardInterrupt):
    """A signal that ends a command. Libraries clean up as after Ctrl-C."""


@contextmanager
def end_in_one_line() -> Iterator[None]:
    """End the process at SIGINT or SIGTERM with one line; a second signal kills it.

    Raises:
        SystemExit: with the status of a process that the signal ended.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        for each in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(each) != signal.SIG_IGN:  # as in a shell's background job
                before[each] = signal.signal(each, _end)
    try:
        yield
    except BaseException as error:  # or what cleaning up raised: libraries are stopped midway
        is_stopped = _stopped_by is not None or isinstance(error, KeyboardInterrupt)
        if not is_stopped or _has_ended.is_set():
            raise
        _has_ended.set()
        signum = _stopped_by or int(signal.SIGINT)
        before.clear()  # another signal may come before the process has ended
        logging.disable()  # of what libraries, stopped midway, have to say at the exit
        print(f"stopped by {signal.Signals(signum).name}", file=sys.stderr)
        sys.exit(128 + signum)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


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
    global _stopped_by
    if _again.is_set():
        _again.clear()
        raise Interrupted
    if _is_repeated(signum):
        return
    if _stopped_by is not None:
        _pass_on(signum, signal.SIG_DFL)
        return
    _stopped_by = signum
    sys.unraisablehook = _ignore
    start_new_thread(_insist, (signum,))
    raise Interrupted


def _ignore(unraisable: Any) -> None:
    if not isinstance(unraisable.exc_value, Interrupted):
        sys.__unraisablehook__(unraisable)


def _insist(signum: int) -> None:
    """Raise :class:`Interrupted` again while the main thread is not ending by it.

    It was lost: Python ignores exceptions in some callbacks, and C code may clear them.
    """
    looks = 0  # in a row that found the main thread elsewhere: it may be on its way
    while not _has_ended.wait(LOOK_EVERY):
        looks = 0 if _handles_interrupted() else looks + 1
        if looks >= 2 and not _again.is_set():  # or the last one has not been raised yet
            looks = 0
            _again.set()
            os.kill(os.getpid(), signum)


def _handles_interrupted() -> bool:
    """Whether the main thread is in an ``except`` or ``finally`` of that exception."""
    found: Any = sys._current_exceptions().get(threading.main_thread().ident or 0)
    error = found[1] if isinstance(found, tuple) else found  # Python 3.11 has three values
    while error is not None and not isinstance(error, Interrupted):
        error = error.__context__
    return error is not None


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
