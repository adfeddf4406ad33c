"""Check a checkpoint and read its marks without torch, whose import takes seconds."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from bcq_exp.errors import Damaged
from bcq_exp.training.record import SET_ASIDE, Marks, report_damage

FORMAT = 2


def check_archive(path: Path) -> None:
    """Compare the checksums of a checkpoint's parts.

    Raises:
        Damaged: if it is no ZIP archive, or a part differs.
    """
    with report_damage(path), ZipFile(path) as archive:
        if (part := archive.testzip()) is not None:
            raise Damaged(f"{path} is damaged (checksum mismatch of {part})")


def check_format(path: Path, content: Any) -> None:
    """Check that the content of a checkpoint is of this format.

    Raises:
        Damaged: if it is not.
    """
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise Damaged(f"{path}: not a checkpoint of format {FORMAT}", SET_ASIDE)


def read_marks(path: Path) -> Marks:
    """Return the marks of the run's tables in a checkpoint, after checking it.

    Raises:
        Damaged: if it is no checkpoint of this format, or its checksums do not match.
    """
    check_archive(path)
    with report_damage(path), ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        with archive.open(name) as file:
            content = _Plain(file).load()
    check_format(path, content)
    with report_damage(path):
        return content["record"]


class _Plain(pickle.Unpickler):
    """Reads plain containers; tensors become ``None``, and no code that a file names is run."""

    def persistent_load(self, pid: Any) -> None:
        return None

    def find_class(self, module: str, name: str) -> Any:
        return OrderedDict if (module, name) == ("collections", "OrderedDict") else _nothing


def _nothing(*_: Any) -> None:
    return None
