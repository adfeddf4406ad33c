"""Data sets and one trained run that all tests share, made once for all workers."""

import os
from pathlib import Path

import pytest
from filelock import FileLock

from tests.commands import TINY, bcq_exp


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the workers of this session have in common."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "common"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def surroundings(common: Path) -> None:
    """No test sees the user's own data sets, caches or W&B account."""
    import torch

    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        del os.environ[name]
    os.environ |= {
        "MINARI_DATASETS_PATH": str(common / "minari"),
        "XDG_CACHE_HOME": str(common / "cache"),
        "HOME": str(common),
        "NETRC": str(common / "netrc"),
        "OMP_NUM_THREADS": "1",
    }
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def trained(common: Path) -> Path:
    """The folder of a finished run of TINY, by the command line, mirrored to W&B offline."""
    folder = common / "multirun" / "trained"
    with FileLock(common / "trained.lock"):
        if not folder.exists():
            options = ("logger=wandb", "logger.group=g", "logger.job_type=j", "logger.tags=[t,u]")
            done = bcq_exp(*TINY, *options, "name=trained", cwd=common)
            assert done.returncode == 0, done.stderr
            (common / "trained.out").write_text(done.stdout)
    return folder
