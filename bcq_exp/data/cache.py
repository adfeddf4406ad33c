"""Cache: validated transitions as .npy files, so that later loads only verify checksums.

There is one folder per source file and state of it, under ``$XDG_CACHE_HOME`` (else ``~/.cache``)
``/bcq_exp/transitions/<key>``. It may be deleted at any time. A corrupt entry is read again
from its source; if the folder cannot be written, loading is slower.

Every load compares the digest of all bytes of an entry, because neither a file's time nor its size
shows corruption. That is one pass at the speed of the disk or of SHA-256 (1.1 GB/s per thread, one
thread per file).

The arrays of a large set (:attr:`Transitions.is_large`) are memory-mapped: processes share them,
and the system can evict pages. Verification takes a second for each 2 GB and brings the set into
the system's memory, as far as it fits. A mapped file must not be modified while it is in use;
replacing or deleting it is safe. Smaller arrays are read into memory.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from bcq_exp.data.contents import Contents
from bcq_exp.data.spaces import ActionSpace, Leaf, space_facts, space_of
from bcq_exp.data.transitions import Transitions
from bcq_exp.files import cache_folder

FORMAT_VERSION = 7  # increment it when loading makes other arrays or notes of the same file

_log = logging.getLogger(__name__)
_META, _DIGESTS = "meta.json", "sha256.json"


def cached(
    files: Iterable[Path], read: Callable[[], Contents], *options: str, use: bool = True
) -> Contents:
    """Return ``read()``, or the stored result of an earlier call with the same files.

    Args:
        files: all files that the result depends on; a changed size or time makes a new key.
        read: loads the data from their source.
        options: further text that the result depends on.
        use: False neither reads nor writes the cache.
    """
    if not use:
        return read()
    key = cache_key(files, *options)
    contents = load(key)
    return store(key, read()) if contents is None else contents


def cache_key(files: Iterable[Path], *options: str) -> str:
    """Hash (hex) of resolved paths, sizes, modification times, options and format version."""
    digest = hashlib.sha256(repr((FORMAT_VERSION, options)).encode())
    for path in sorted(file.resolve() for file in files):
        stat = path.stat()
        digest.update(repr((str(path), stat.st_size, stat.st_mtime_ns)).encode())
    return digest.hexdigest()[:32]


def cache_root() -> Path:
    """Return the folder of all entries."""
    return cache_folder("transitions")


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder for arrays too large for memory, on the cache's disk if possible."""
    root = cache_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=root, prefix=".new-")
    except OSError:
        folder = tempfile.TemporaryDirectory()
    with folder as path:
        yield Path(path)


def load(key: str) -> Contents | None:
    """Return the entry; None if it is missing or corrupt."""
    folder = cache_root() / key
    try:
        digests = json.loads((folder / _DIGESTS).read_bytes())
        if digests != _digests(folder, digests):
            raise ValueError("checksum mismatch")
        return _open(folder)
    except FileNotFoundError:
        if folder.exists():
            _log.warning("cached arrays in %s are incomplete; reading the source again", folder)
    except (OSError, ValueError, TypeError) as error:
        _log.warning(
            "cached arrays in %s are damaged (%s); reading the source again", folder, error
        )
    return None


def store(key: str, contents: Contents) -> Contents:
    """Write an entry atomically, and log if that fails.

    Returns:
        The contents; those of a large set are memory-mapped, as in later loads.
    """
    root = cache_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".new-") as new:
            folder = Path(new) / key
            folder.mkdir()
            _write(folder, contents)
            if contents.transitions.is_large:
                contents = _open(folder)  # before another process can replace the entry
            if (root / key).exists():  # corrupt, else it would have been used
                shutil.move(root / key, Path(new) / "old")
            os.rename(folder, root / key)
    except OSError as error:
        _log.debug("transitions are not cached in %s: %s", root, error)
    return contents


def _digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 (hex) of each of an entry's files, by name."""

    def digest(name: str) -> str:
        with (folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    names = list(names)
    with ThreadPoolExecutor() as threads:  # hashing releases Python's lock
        return dict(zip(names, threads.map(digest, names), strict=True))


def _write(folder: Path, contents: Contents) -> None:
    values = {**vars(contents), **contents.transitions.arrays()}
    del values["transitions"]
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            np.save(folder / f"{name}.npy", value)
    meta = {name: value for name, value in values.items() if not isinstance(value, np.ndarray)}
    (folder / _META).write_text(json.dumps(meta, default=_plain))
    digests = _digests(folder, [path.name for path in folder.iterdir()])
    (folder / _DIGESTS).write_text(json.dumps(digests))


def _open(folder: Path) -> Contents:
    """Open an intact entry."""
    meta = json.loads((folder / _META).read_bytes())
    for name in ("observation_space", "action_space"):
        meta[name] = space_of(meta[name])
    meta["leaves"] = [Leaf(tuple(leaf["path"]), leaf["size"]) for leaf in meta["leaves"]]
    facts: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in meta.items()
    }
    arrays = {path.stem: np.load(path, "r") for path in folder.glob("*.npy")}
    if not _pop_rows(dict(arrays)).is_large:
        arrays = {name: np.array(array) for name, array in arrays.items()}
    return Contents(transitions=_pop_rows(arrays), **arrays, **facts)


def _pop_rows(arrays: dict[str, np.ndarray]) -> Transitions:
    return Transitions(**{field.name: arrays.pop(field.name) for field in fields(Transitions)})


def _plain(value: Leaf | ActionSpace) -> dict[str, Any]:
    """Convert what JSON does not know; it reads and writes the infinities of open bounds."""
    return vars(value) if isinstance(value, Leaf) else space_facts(value)
