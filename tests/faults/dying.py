"""Commands that are ended at fault points of their own, and what there is of these."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.commands import bcq_exp

SITE = Path(__file__).parent / "site"
ROOT = Path(__file__).parents[2]
KILLED = {-signal.SIGKILL, -signal.SIGXFSZ}


def run(*args: str, cwd: Path, **faults: Any) -> subprocess.CompletedProcess[str]:
    """A command with ``FAULT=...`` and the like."""
    path = os.pathsep.join([str(SITE), str(ROOT), os.environ.get("PYTHONPATH", "")])
    values = {name: v if isinstance(v, str) else json.dumps(v) for name, v in faults.items()}
    return bcq_exp(*args, cwd=cwd, env={**os.environ, "PYTHONPATH": path, **values})


def points(*args: str, cwd: Path) -> Counter[str]:
    """Every fault point that a command comes by, and how often."""
    log = cwd / "points"
    done = run(*args, cwd=cwd, FAULT_LOG=str(log))
    assert done.returncode == 0, done.stderr
    return Counter(log.read_text().splitlines())


def faults(found: Counter[str], rng: random.Random) -> Iterator[dict[str, Any]]:
    """Faults without end: every kind of point in turn, one occurrence of it, some writes torn."""
    kinds = sorted(found)
    while True:
        rng.shuffle(kinds)
        for point in kinds:
            tears = point.startswith("open") and rng.random() < 0.6
            torn = rng.choice([0, 1, 7, 60, 500, 5000]) if tears else None
            yield {"point": point, "count": rng.randint(1, found[point]), "torn": torn}
