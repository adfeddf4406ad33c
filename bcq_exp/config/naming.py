"""Names of runs: the folders under ``multirun/``."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from secrets import token_hex
from typing import Any

from bcq_exp.config.overrides import key_and_value
from bcq_exp.errors import UserError

LONGEST_FOLDER_NAME = 180  # file systems allow 255


def run_name(name: str | None, resume: Any, is_sweep: bool = False) -> str:
    """The folder of a run or sweep under ``multirun/``: its name, the latest run's, or a new one.

    Raises:
        UserError: if the name cannot name a folder, there is no run to resume, or the sweep to
            resume is not named.
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
    if resume is True and is_sweep:
        raise UserError("resume=true: give the name= of the sweep to continue")
    if resume is True:
        found = Path("multirun").glob("*/checkpoint.pt")
        checkpoints = [path for path in found if not _is_set_aside(path.parent)]
        if not checkpoints:
            raise UserError("resume=true: multirun/ holds no run with a checkpoint; give its name=")
        return max(checkpoints, key=lambda path: path.stat().st_mtime).parent.name
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}-{token_hex(4)}"


@dataclass(frozen=True)
class RunNaming:
    """Names the runs of a sweep by the values of its swept keys.

    Args:
        keys: the swept keys.
        is_whole: keys keep their groups, as in sweeps of earlier versions; otherwise only where two
            keys have the same last part.
    """

    keys: tuple[str, ...]
    is_whole: bool = False

    @classmethod
    def of(cls, subdir: str) -> RunNaming | None:
        """Return the naming with this :attr:`subdir`; ``None`` for any other text."""
        found = re.fullmatch(
            r'\$\{bcq\.run_folder:"(.*)",\$\{hydra\.overrides\.task\}(,true)?\}', subdir
        )
        return None if found is None else cls(tuple(found[1].split(",")), found[2] is not None)

    @property
    def subdir(self) -> str:
        """The value of ``hydra.sweep.subdir`` that names the runs."""
        whole = ",true" if self.is_whole else ""
        return f'${{bcq.run_folder:"{",".join(self.keys)}",${{hydra.overrides.task}}{whole}}}'

    @property
    def labels(self) -> dict[str, str]:
        """Each key as it is written in folder names."""
        if self.is_whole:
            return {key: key for key in self.keys}
        names = short_names(dict.fromkeys([*self.keys, "seed"]))  # seed of the run, not of its data
        return {key: names[key] for key in self.keys}

    def folder(self, overrides: Sequence[str]) -> str:
        """Return the name of a run's folder in its sweep's, such as ``lmbda=0.5,seed=0``.

        Args:
            overrides: all overrides of the run.
        """
        values = dict(map(key_and_value, overrides))
        items = [(label, values[key]) for key, label in self.labels.items() if key in values]
        whole = ",".join(f"{label}={value}" for label, value in items)
        short = ",".join(f"{label}={_rounded(value)}" for label, value in items)
        name = re.sub(r"[^\w=,+@.-]", "_", short[:LONGEST_FOLDER_NAME])
        if short == whole and len(short) <= LONGEST_FOLDER_NAME:
            return name
        return f"{name}-{_digest(whole)}"

    def continuing(self, sweep: Path) -> RunNaming:
        """Return the naming of the runs already in a sweep's folder, so that they are found."""
        shortened = {key for key, label in self.labels.items() if key != label}
        names = (path.parent.name for path in sweep.glob("*/summary.json"))
        if any(shortened & swept_values(name).keys() for name in names):
            return replace(self, is_whole=True)
        return self


def run_folder(keys: str, overrides: Sequence[str], is_whole: bool = False) -> str:
    """:meth:`RunNaming.folder` of keys that are joined by commas, for a resolver."""
    return RunNaming(tuple(keys.split(",")), is_whole).folder(overrides)


def swept_values(folder_name: str) -> dict[str, str]:
    """The swept keys and values in a name of :class:`RunNaming`; empty for other names.

    Paths of nested folders (``hydra.sweep.subdir``) are other names. A value may differ
    from the override: numbers are rounded, characters replaced.
    """
    if "/" in folder_name:
        return {}
    values = {}
    for item in re.split(r",(?=[\w.@+-]+=)", re.sub(r"-[0-9a-f]{8}$", "", folder_name)):
        key, separator, value = item.partition("=")
        if not separator:
            return {}
        values[key] = value
    return values


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Shorten each key to its last part where that is unique; a class to its node."""
    last = {key: key.removesuffix("._target_").rsplit(".", 1)[-1] for key in keys}
    counts = Counter(last.values())
    return {key: name if counts[name] == 1 else key for key, name in last.items()}


def shortened(text: str, limit: int) -> str:
    """Shorten a text to ``limit`` characters, with a digest to keep it unique."""
    return text if len(text) <= limit else f"{text[: limit - 9]}-{_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def as_name(env: str) -> str:
    """An environment's id as a part of a name: ``module:ns/Name-v0`` is ``module-ns-Name-v0``."""
    return re.sub(r"[^\w-]", "-", env)


def _rounded(value: str) -> str:
    """Round a number with many decimals, as a search draws it, to four digits."""
    return f"{float(value):.4g}" if re.fullmatch(r"-?\d*\.\d{6,}(e-?\d+)?", value) else value


def _is_set_aside(folder: Path) -> bool:
    """Whether a run was set aside for another (``start.set_aside``), which exists."""
    name, _, number = folder.name.rpartition(".")
    return number.isdecimal() and bool(name) and folder.with_name(name).exists()
