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
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from bcq_exp.errors import RunStopped

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)  # schedulers warn with the last
SAME_WITHIN = 1.0  # seconds
LOOK_EVERY = 0.1  # seconds

_has_ended, _again = threading.Event(), threading.Event()
_stopped_by: int | None = None
_last: dict[int, float] = {}  # when each signal was last acted on


class Interrupted(KeyboardInterrupt):
    """A signal that ends what a process does. Libraries clean up as after Ctrl-C."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Let a signal end the block, and with it the process; a second one kills the process.

    Raises:
        RunStopped: with the signal's name and status.
    """
    with handled(_end, keep_ignored=True) as before:  # in a shell's background job
        try:
            with _mask(signal.SIG_UNBLOCK):
                yield
        except BaseException as error:  # or what cleaning up raised: libraries are stopped midway
            is_stopped = _stopped_by is not None or isinstance(error, KeyboardInterrupt)
            if not is_stopped or _has_ended.is_set():
                raise
            _has_ended.set()
            before.clear()  # another signal may come before the process has ended
            logging.disable()  # of what libraries, stopped midway, have to say at the exit
            signum = _stopped_by or int(signal.SIGINT)
            name = signal.Signals(signum).name
            raise RunStopped(f"stopped by {name}", status=128 + signum) from error


def blocked() -> AbstractContextManager[None]:
    """Let signals wait until the block ends; in processes that it starts, until their
    :func:`interruptible`."""
    return _mask(signal.SIG_BLOCK)


@contextmanager
def requests(request: Callable[[int], None]) -> Iterator[None]:
    """Turn signals into requests: ``request(signum)`` is called at the first of each.

    The next one is left to the handler from before this block. Other threads than the main one
    handle no signals.
    """
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

    with handled(handle) as before, _mask(signal.SIG_UNBLOCK):
        yield


@contextmanager
def handled(
    handler: Any, signums: Iterable[int] = SIGNALS, *, keep_ignored: bool = False
) -> Iterator[dict[int, Any]]:
    """Handle signals in a block; yield the handlers that are restored after it."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for signum in signums:
            if keep_ignored and signal.getsignal(signum) == signal.SIG_IGN:
                continue
            before[signum] = signal.signal(signum, handler)
    try:
        yield before
    finally:
        for signum, old in before.items():
            signal.signal(signum, old)


@contextmanager
def _mask(how: int) -> Iterator[None]:
    before = signal.pthread_sigmask(how, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
    """Raise :class:`Interrupted` again where it was lost: Python ignores exceptions in some
    callbacks, and C code may clear them."""
    looks = 0  # in a row that found the main thread elsewhere: it may be on its way
    while not _has_ended.wait(LOOK_EVERY):
        looks = 0 if _handles_interrupted() else looks + 1
        if looks >= 2 and not _again.is_set():  # or the last one has not been raised yet
            looks = 0
            _again.set()
            os.kill(os.getpid(), signum)


def _handles_interrupted() -> bool:
    """Return whether the main thread is in an ``except`` or ``finally`` of that exception."""
    found: Any = sys._current_exceptions().get(threading.main_thread().ident or 0)
    error = found[1] if isinstance(found, tuple) else found  # Python 3.11 has three values
    while error is not None and not isinstance(error, Interrupted):
        error = error.__context__
    return error is not None


def _is_repeated(signum: int) -> bool:
    """Return whether a signal repeats one that was acted on; otherwise record it."""
    now = time.monotonic()
    if now - _last.get(signum, -SAME_WITHIN) < SAME_WITHIN:
        return True
    _last[signum] = now
    return False


def _pass_on(signum: int, handler: Any) -> None:
    """Raise a signal again for another handler, which also gets those that follow."""
    signal.signal(signum, handler)
    _last.pop(signum)
    signal.raise_signal(signum)
