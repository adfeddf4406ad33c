"""The folders of runs among folders, sweeps and globs, and their names."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bcq_exp.errors import UserError


def run_folders(*places: str | Path) -> list[Path]:
    """The folder of every run in folders, sweeps and globs, each once.

    Raises:
        UserError: if one of them holds no run.
    """
    found: dict[Path, Path] = {}
    for place in places:
        folders = list(_run_folders(str(place)))
        if not folders and not _is_of_a_sweep(Path(place)):
            raise UserError(
                f"{place}: no runs found; give folders of runs or sweeps, such as multirun/NAME"
            )
        for folder in folders:
            found.setdefault(folder.resolve(), folder)
    if not found:
        raise UserError(
            f"{places[0]}: no runs found; give the sweep's folder, {Path(places[0]).parent}"
        )
    return list(found.values())


def _is_of_a_sweep(place: Path) -> bool:
    """Whether a path lies in a sweep's folder, as files that ``multirun/NAME/*`` matches."""
    return place.exists() and (place.parent / "multirun.yaml").exists()


def _run_folders(place: str) -> Iterator[Path]:
    for match in [place] if Path(place).exists() else sorted(glob.glob(place)):
        found = []
        for folder, below, names in os.walk(match, followlinks=True):
            below[:] = [name for name in below if not name.startswith(".")]
            if "summary.json" in names:
                found.append(Path(folder))
                below.clear()
        yield from sorted(found, key=_as_people_sort)


def _as_people_sort(path: Path) -> tuple[Any, ...]:
    name, above = path.name, str(path.parent)
    return (above, 0, int(name), "") if name.isdecimal() else (above, 1, 0, name)


def run_names(folders: Sequence[Path]) -> list[str]:
    """Return the folders' names, with those of the folders above while names repeat."""
    paths = [folder.resolve().parts for folder in folders]
    depth = 1
    while len({path[-depth:] for path in paths}) < len({*paths}):
        depth += 1
    return ["/".join(path[-depth:]) for path in paths]
