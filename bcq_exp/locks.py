"""Locks that a process holds while it writes something: the kernel releases them when it dies.

They are advisory locks of files (``flock``), so that nothing needs to be known of processes: one
that was killed and not yet reaped holds none. On network file systems they hold between machines
where the system carries ``flock`` (NFS 4, Lustre mounted with ``-o flock``, GPFS, CephFS); where it
knows none, there is one warning and no protection.
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from bcq_exp.errors import UserError
from bcq_exp.files import written

log = logging.getLogger(__name__)

PATIENCE = 1.0  # seconds: longest time a status check may hold the lock


@contextmanager
def hold(path: Path, refusal: str | None) -> Iterator[None]:
    """Hold the lock of a file inside the block; the file is created if it is missing.

    Args:
        refusal: the message where another process (or thread) holds it; None waits for that.

    Raises:
        UserError: ``refusal``, if another process holds it.
        CannotWrite: if the file cannot be created.
    """
    with written(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    timeout = -1 if refusal is None else PATIENCE
    lock = FileLock(path, timeout=timeout, thread_local=False)
    try:
        lock.acquire(poll_interval=0.02)
    except Timeout:
        raise UserError(refusal) from None
    except (NotImplementedError, OSError) as error:
        _warn(path.parent, str(error))
    try:
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Whether some process holds the lock of a file."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared by all status checks
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            return False
    return False


@cache  # one warning per folder
def _warn(folder: Path, reason: str) -> None:
    log.warning(
        "%s is on a file system without locks (%s): make sure that no two processes write there "
        "at the same time",
        folder,
        reason,
    )
