"""Handle output whose reader has ended."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

STATUS = 1  # as rich, which prints the tables, does


@contextmanager
def may_be_closed() -> Iterator[None]:
    """Exit quietly if the reader of the output has ended, as ``head`` does after its lines."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        sys.exit(STATUS)
