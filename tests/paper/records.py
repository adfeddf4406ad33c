"""The runs of the paper's experiments as a small archive, so that they can be done in sittings.

``python -m tests.paper.records pack multirun/paper_small_* > records.tar.xz`` keeps what the
results are made of: summary and evaluations of each complete run. Where they are unpacked and
``python -m bcq_exp.paper`` runs, they count as done; no data set or checkpoint of them is needed.
"""

from __future__ import annotations

import shutil
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from bcq_exp.training.folders import SWEEP_FILE
from bcq_exp.training.record import RunRecord


def pack(sweeps: Sequence[Path], to: BinaryIO) -> int:
    """Archive the complete runs of sweeps; returns how many."""
    with tempfile.TemporaryDirectory() as place, tarfile.open(fileobj=to, mode="w|xz") as archive:
        kept = [run for sweep in sweeps for run in sorted(sweep.iterdir()) if _is_complete(run)]
        for run in kept:
            folder = Path(place, run.parent.name, run.name)
            folder.mkdir(parents=True)
            shutil.copy(run / "eval.csv", folder)
            shutil.copy(run.parent / SWEEP_FILE, folder.parent)
            record = RunRecord(folder)
            summary = RunRecord(run).summary()
            assert summary is not None
            record.write_summary(summary)
        archive.add(place, "multirun", filter=_nobody)
    return len(kept)


def unpack(archive: Path, folder: Path) -> None:
    """Put the runs of an archive under ``folder/multirun``."""
    with tarfile.open(archive) as content:
        content.extractall(folder, filter="data")


def _is_complete(run: Path) -> bool:
    summary = RunRecord(run).summary()
    return summary is not None and summary["status"] == "completed"


def _nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["pack", *sweeps]:
            count = pack(list(map(Path, sweeps)), sys.stdout.buffer)
            print(f"{count} complete runs", file=sys.stderr)
        case ["unpack", archive]:
            unpack(Path(archive), Path())
        case _:
            sys.exit(__doc__)
