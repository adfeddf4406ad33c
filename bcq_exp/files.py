"""Atomic writes, marks that reveal damage, and one-line errors of files."""

from __future__ import annotations

import errno
import itertools
import json
import os
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

from bcq_exp.errors import CannotWrite, Damaged, causes

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
NO_PATH = {errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES}


class Mark(TypedDict):
    """The size of a growing file at some time, and the checksum of these bytes."""

    size: int
    crc32: int


def mark(path: Path, *, lasting: bool = False) -> Mark:
    """Return the mark of a file; of a missing one, that of an empty file.

    Args:
        lasting: flush the content to disk first.
    """
    if not path.exists():
        return Mark(size=0, crc32=0)
    with path.open("rb") as file:
        if lasting:
            os.fsync(file.fileno())
        content = file.read()
    return Mark(size=len(content), crc32=zlib.crc32(content))


def check_mark(path: Path, content: bytes, mark: Mark) -> None:
    """Compare a file's content with its mark.

    Raises:
        Damaged: if it no longer begins with the marked bytes.
    """
    if len(content) < mark["size"]:
        there = f"{len(content)} of {mark['size']} bytes" if content else "missing or empty"
        raise Damaged(f"{path} is damaged ({there})")
    if zlib.crc32(content[: mark["size"]]) != mark["crc32"]:
        raise Damaged(f"{path} is damaged (checksum mismatch)")


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Report in one line which file cannot be written, and why.

    Raises:
        CannotWrite: if the system refuses a write inside the block.
    """
    try:
        yield
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {error.strerror or error}") from error


def refusal(error: BaseException) -> str | None:
    """The message for a full disk or a write that was refused; ``None`` for other errors."""
    found = _of_system(error, NO_ROOM)
    return None if found is None else f"cannot write {found.filename or 'a file'}: {found.strerror}"


def unusable_path(error: BaseException) -> str | None:
    """The message for a path that the system refuses; ``None`` for other errors."""
    found = _of_system(error, NO_PATH)
    return None if found is None else f"{found.filename}: {found.strerror}"


def _of_system(error: BaseException, errnos: Collection[int]) -> OSError | None:
    """Return the system's error that caused an error, if its number is among these."""
    own = (link for link in causes(error) if isinstance(link, OSError) and link.errno in errnos)
    return next(own, None)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` when the block ends without an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def clear_halves(folder: Path) -> None:
    """Remove temporary files of killed processes; no process may be writing there."""
    for path in folder.glob(".*.*"):
        if path.suffix[1:].isdigit():
            path.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file's content: a reader, or a kill, sees the old or the new one.

    Raises:
        CannotWrite: if the system refuses; the old file stays in place.
    """
    with written(path), atomic_path(path) as temporary:
        temporary.write_bytes(content)


def as_json(content: Any) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def set_aside(path: Path, home: Path) -> None:
    """Move a file or folder into ``home``, under its name and the first number that is free."""
    home.mkdir(exist_ok=True)
    targets = (home / f"{path.name}.{number}" for number in itertools.count(1))
    path.rename(next(target for target in targets if not target.exists()))


def shortest(folder: Path) -> Path:
    """A folder as a user types it: relative to the current folder if it is below that.

    The current folder itself stays absolute, because a run may be trained in its own folder
    (``hydra.job.chdir``).
    """
    return folder.relative_to(Path.cwd()) if Path.cwd() in folder.parents else folder


def cache_folder(name: str) -> Path:
    """A folder of the user's cache; an empty or relative ``XDG_CACHE_HOME`` counts as unset."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return root / "bcq_exp" / name
