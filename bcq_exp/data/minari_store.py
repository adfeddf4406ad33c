"""Minari's folder of data sets: find, list, fetch and add them by id."""

import errno
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from glob import glob
from pathlib import Path
from typing import Any

from bcq_exp import locks
from bcq_exp.data.transitions import DataError
from bcq_exp.errors import CannotWrite
from bcq_exp.extras import install_command
from bcq_exp.files import refusal
from bcq_exp.formatting import listed

_log = logging.getLogger(__name__)
_ID = re.compile(r"(?!\w/[^/]*$)([-\w]+/)*[-\w]+-v\d+")  # a namespace has two letters or more
_OWN = ".bcq_exp"  # hidden, so that Minari does not take it for a namespace
_LISTED = 8
PROVENANCE = "bcq_exp"  # its key in a data set's metadata


def minari_root() -> Path:
    """``$MINARI_DATASETS_PATH``, else ``~/.minari/datasets``, as Minari itself has it."""
    root = os.environ.get("MINARI_DATASETS_PATH")
    return Path(root).absolute() if root else Path.home() / ".minari" / "datasets"


def data_folder(dataset_id: str) -> Path:
    """Return the folder of the data set's files, which may not exist.

    Raises:
        DataError: the id is malformed.
    """
    if not _ID.fullmatch(dataset_id):
        raise DataError(
            f"data set {dataset_id!r}: not a Minari id; ids look like 'name-v0' or "
            "'namespace/name-v0', a namespace of two letters or more"
        )
    return minari_root() / dataset_id / "data"


def local_ids() -> list[str]:
    """Ids of the data sets in the folder, sorted."""
    ids = (
        os.path.dirname(path) for path in glob("**/data", root_dir=minari_root(), recursive=True)
    )
    return sorted(filter(_ID.fullmatch, ids))


def fetch(dataset_id: str, *, download: bool) -> Path:
    """Return the data set's folder, downloading it if it is missing and ``download`` allows.

    Raises:
        DataError: neither stored nor downloadable; the message lists the stored ids.
    """
    folder = data_folder(dataset_id)
    if folder.is_dir():
        return folder
    if not download:
        raise _missing(dataset_id, "downloading is switched off (dataset.download=false)")
    _log.info("downloading Minari data set %s", dataset_id)
    try:
        import minari

        minari.download_dataset(dataset_id)
    except ImportError as error:
        reason = f"a download needs more packages ({install_command('download')})"
        raise _missing(dataset_id, reason) from error
    except Exception as error:  # any error of the remote storage's client
        reason = f"the download failed ({type(error).__name__}: {error})"
        raise _missing(dataset_id, reason) from error
    if not folder.is_dir():
        raise _missing(dataset_id, "the download contains no data")
    return folder


def metadata(dataset_id: str) -> dict[str, Any] | None:
    """Return the metadata of a data set; None if it is not stored here.

    Raises:
        DataError: the id is malformed, or the metadata damaged.
    """
    path = data_folder(dataset_id) / "metadata.json"
    try:
        return dict(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise DataError(f"data set {dataset_id!r}: {path} is damaged ({error})") from error


def provenance(dataset_id: str) -> dict[str, Any] | None:
    """Return the provenance of a data set recorded by bcq_exp; None for any other.

    Raises:
        DataError: the id is malformed, or the metadata damaged.
    """
    return (metadata(dataset_id) or {}).get(PROVENANCE)


def _missing(dataset_id: str, reason: str) -> DataError:
    ids = local_ids()
    here = listed(ids, _LISTED) if ids else "none"
    reason = " ".join(reason.split())
    return DataError(
        f"data set {dataset_id!r} is not in {minari_root()}, and {reason}; available are: {here}"
    )


def work_folder() -> Path:
    """Return a hidden folder next to the data sets, for locks and unfinished data sets.

    Raises:
        DataError: it cannot be written.
    """
    folder = minari_root() / _OWN
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(error) from error
    if not os.access(folder, os.W_OK):
        raise _unwritable(PermissionError(errno.EACCES, f"{folder} is owned by another user"))
    return folder


def check_new(dataset_id: str, *, overwrite: bool = False) -> None:
    """Refuse an id that cannot be used for a new data set.

    Raises:
        DataError: the id is malformed, taken and not to be overwritten, or would lie in another
            data set or around others.
    """
    place, root = data_folder(dataset_id).parent, minari_root()
    for folder in place.parents:
        if folder == root:
            break
        if _holds_a_set(folder):
            raise DataError(f"data set {dataset_id!r}: {folder} is a data set; choose another id")
    if not place.exists():
        return
    if not _holds_a_set(place):
        raise DataError(
            f"data set {dataset_id!r}: {place} exists and is not a data set (it may contain data "
            "sets); choose another id"
        )
    if not overwrite:
        raise _taken(dataset_id)


def _holds_a_set(folder: Path) -> bool:
    return (folder / "data" / "metadata.json").exists()


def reserve(dataset_id: str, *, waits: bool = False) -> AbstractContextManager[None]:
    """Hold the lock of an id inside the block, while this process makes the data set.

    Args:
        waits: whether to wait for another process that makes it.

    Raises:
        UserError: if another process makes it and this one does not wait.
        DataError: the folder cannot be written.
    """
    path = work_folder() / f"{dataset_id.replace('/', '.')}.lock"
    refusal = f"data set {dataset_id!r}: another process is recording it; wait for it"
    return locks.hold(path, None if waits else refusal)


def check_room(num_bytes: int) -> None:
    """Check that a data set of this size fits on the disk; HDF5 crashes on a full disk.

    Raises:
        CannotWrite: if there is less room.
        DataError: the folder cannot be written.
    """
    if (free := shutil.disk_usage(work_folder()).free) < num_bytes:
        raise CannotWrite(
            f"cannot write {minari_root()}: No space left on device: about {num_bytes / 2**20:.1f} "
            f"MiB are needed, {free / 2**20:.1f} are free"
        )


def publish(dataset_id: str, write: Callable[[Path], None], *, overwrite: bool = False) -> None:
    """Add a data set atomically.

    Args:
        dataset_id: the id under which it appears.
        write: writes the data set's files into an empty folder.
        overwrite: replace a data set of this id instead of refusing.

    Raises:
        DataError: the id is malformed or taken, or the folder cannot be written.
    """
    from minari.namespace import create_namespace

    check_new(dataset_id, overwrite=overwrite)
    target = data_folder(dataset_id).parent
    folder = work_folder()
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix="new-") as temporary:
            new = Path(temporary) / "new"
            (new / "data").mkdir(parents=True)
            write(new / "data")
            if namespace := dataset_id.rpartition("/")[0]:
                with suppress(ValueError):  # it exists
                    create_namespace(namespace)
            if overwrite and target.exists():
                _replace(target, new, Path(temporary) / "old")
            else:
                os.rename(new, target)
    except OSError as error:
        if refusal(error) is not None:
            raise
        # The rename fails if another process made the target meanwhile.
        raise (_taken(dataset_id) if target.exists() else _unwritable(error)) from error


def _replace(target: Path, new: Path, aside: Path) -> None:
    """Replace ``target`` by ``new``; restore it on any error."""
    os.rename(target, aside)
    try:
        os.rename(new, target)
    except BaseException:  # including signals
        os.rename(aside, target)
        raise


def _unwritable(error: OSError) -> DataError:
    return DataError(
        f"data sets cannot be written to {minari_root()} ({error.strerror or error}); set "
        "MINARI_DATASETS_PATH to a writable folder"
    )


def _taken(dataset_id: str) -> DataError:
    return DataError(
        f"data set {dataset_id!r} already exists in {minari_root()}; choose another id, or "
        "overwrite=true to replace it"
    )
