"""Turn functions into commands whose errors are one line and an exit status."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from io import TextIOWrapper
from typing import Any

from bcq_exp import signals
from bcq_exp.errors import RunStopped, UserError
from bcq_exp.files import refusal

CLOSED = 1  # status where the reader of the output has ended, as rich, which prints the tables, has


def command(function: Callable[..., Any]) -> Callable[..., None]:
    """Turn ``function`` into a command.

    Exit status: 0 done; 2 the user's mistake, reported in one line; 1 a failed run or a full disk;
    130, 140 or 143 stopped by a signal. Any other exception is a bug of bcq_exp and keeps its
    traceback.
    """

    @wraps(function)
    def run(*arguments: Any) -> None:
        if root := os.environ.pop("MINARI_DATASETS_PATH", ""):
            # Hydra may change the folder (chdir); an empty variable is none
            os.environ["MINARI_DATASETS_PATH"] = os.path.abspath(root)
        logging.raiseExceptions = False  # ignore a log that cannot be written
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="replace")  # the locale may lack characters, such as ±
        try:
            with signals.interruptible(), may_be_closed():
                function(*arguments)
        except RunStopped as stopped:
            _exit(str(stopped), stopped.status)
        except Exception as error:
            if not isinstance(error, UserError) and (line := refusal(error)) is not None:
                _exit(line, 1)
            from bcq_exp.cli.explain import is_mistake, one_line

            if not is_mistake(error):
                raise
            _exit(f"error: {one_line(error)}", 2)

    return run


@contextmanager
def may_be_closed() -> Iterator[None]:
    """Exit quietly if the reader of the output has ended, as ``head`` does after its lines."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        sys.exit(CLOSED)


def _exit(message: str, status: int) -> None:
    print(message, file=sys.stderr)
    sys.exit(status)
