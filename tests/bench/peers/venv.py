"""Makes .venv-peers, where the other implementations live: they pin a gymnasium older than ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
VENV = HERE.parents[2] / ".venv-peers"
PYTHON = VENV / "bin" / "python"
REQUIREMENTS, CONSTRAINTS = HERE / "requirements.txt", HERE / "constraints.txt"


def ensure() -> None:
    """Make the venv, or bring it up to date, unless it already holds just what is asked for.

    Raises:
        subprocess.CalledProcessError: it cannot be made or a package cannot be had.
    """
    stamp = VENV / ".installed"
    wanted = REQUIREMENTS.read_text() + CONSTRAINTS.read_text()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    torch = next(line for line in CONSTRAINTS.read_text().splitlines() if line.startswith("torch="))
    _install(torch)  # alone and by its exact version, so that a local CPU build of it can serve
    _install("--requirement", str(REQUIREMENTS))
    stamp.write_text(wanted)


def _install(*what: str) -> None:
    command = [str(PYTHON), "-m", "pip", "install", "--quiet", "--constraint", str(CONSTRAINTS)]
    subprocess.run([*command, *what], check=True)


if __name__ == "__main__":
    ensure()
