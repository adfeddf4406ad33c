"""What runs are called: the folders under ``multirun/``."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from secrets import token_hex
from typing import Any

from bcq_exp.errors import UserError

LONGEST_FOLDER_NAME = 180  # file systems allow 255


def run_name(name: str | None, resume: Any) -> str:
    """The folder of a run under ``multirun/``: its name, the latest run's, or a new one of its own.

    Raises:
        UserError: if the name is no folder name, or there is no run to resume.
    """
    if name is not None:
        if not re.fullmatch(r"[\w=,+@-][\w=,+@. -]*", str(name)):
            raise UserError(
                f"name={name}: must be of letters, digits and _ - . = , + @ (it names a folder)"
            )
        if len(str(name).encode()) > LONGEST_FOLDER_NAME:
            raise UserError(
                f"name={str(name)[:20]}...: must have at most {LONGEST_FOLDER_NAME} bytes, not "
                f"{len(str(name).encode())} (it names a folder)"
            )
        return str(name)
    if resume is True:
        found = Path("multirun").glob("*/checkpoint.pt")
        checkpoints = sorted((p for p in found if not _is_set_aside(p.parent)), key=_modified)
        if not checkpoints:
            raise UserError("resume=true: multirun/ holds no run with a checkpoint; give its name=")
        return checkpoints[-1].parent.name
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}-{token_hex(4)}"


def run_folder(keys: str, overrides: Sequence[str]) -> str:
    """The folder of a run in its sweep's: what is swept, as ``algo.lmbda=0.5,seed=0``.

    Args:
        keys: the swept ones, joined by commas.
        overrides: all that the run was given.
    """
    swept = keys.split(",")
    given = (override.lstrip("+").partition("=") for override in overrides)
    values = {key: value for key, _, value in given}
    whole = ",".join(f"{key}={values[key]}" for key in swept if key in values)
    short = ",".join(f"{key}={_rounded(values[key])}" for key in swept if key in values)
    name = re.sub(r"[^\w=,+@.-]", "_", short[:LONGEST_FOLDER_NAME])
    if short == whole and len(short) <= LONGEST_FOLDER_NAME:
        return name
    return f"{name}-{_digest(whole)}"


def swept_values(folder_name: str) -> dict[str, str]:
    """The swept keys and values in a name that :func:`run_folder` made; empty for other names.

    A value may differ from what was given: numbers are rounded, characters replaced.
    """
    values = {}
    for item in re.split(r",(?=[\w.@+-]+=)", re.sub(r"-[0-9a-f]{8}$", "", folder_name)):
        key, separator, value = item.partition("=")
        if not separator:
            return {}
        values[key] = value
    return values


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Each key's last part where that tells it apart, else the whole key."""
    last = {key: key.rsplit(".", 1)[-1] for key in keys}
    counts = Counter(last.values())
    return {key: name if counts[name] == 1 else key for key, name in last.items()}


def shortened(text: str, limit: int) -> str:
    """A text of at most ``limit`` characters, told apart from others that begin alike."""
    return text if len(text) <= limit else f"{text[: limit - 9]}-{_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def as_name(env: str) -> str:
    """An environment's id as a part of a name: ``module:ns/Name-v0`` is ``module-ns-Name-v0``."""
    return re.sub(r"[^\w-]", "-", env)


def subdir_of(keys: str) -> str:
    """What names the runs of a sweep over these keys, for ``hydra.sweep.subdir``."""
    return f'${{bcq.run_folder:"{keys}",${{hydra.overrides.task}}}}'


def keys_of(subdir: str) -> str | None:
    """The keys that :func:`subdir_of` was given; ``None`` for what is none of its."""
    keys = subdir.partition('"')[2].partition('"')[0]
    return keys if subdir == subdir_of(keys) else None


def _rounded(value: str) -> str:
    """A number as a search draws it, to four digits; everything else as it is."""
    return f"{float(value):.4g}" if re.fullmatch(r"-?\d*\.\d{6,}(e-?\d+)?", value) else value


def _is_set_aside(folder: Path) -> bool:
    """Whether a run made room for another (``start.set_aside``), which is there."""
    name, _, number = folder.name.rpartition(".")
    return number.isdecimal() and bool(name) and folder.with_name(name).exists()


def _modified(path: Path) -> float:
    return path.stat().st_mtime
