"""A run to spoil."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the finished run; its checkpoints are of steps 45 and 60."""
    return shutil.copytree(trained, tmp_path / "multirun" / "trained")
