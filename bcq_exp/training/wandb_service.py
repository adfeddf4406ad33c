"""Control W&B and its service process: start runs without output, and end it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import TIMEOUT_MAX
from types import SimpleNamespace
from typing import Any

from bcq_exp.internals import report_no_imports

TIMEOUT = 30.0  # seconds, to connect or to upload what is left, without W&B's own variables
GRACE = 10.0  # seconds after both, before W&B's process is ended


def set_up(on_warning: Callable[[str], None]) -> Any:
    """Make settings for this process's runs: silent, without console capture, system statistics
    or copies of code; ``on_warning`` is called with W&B's warnings.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # it prints to this process's stderr
    import wandb

    report_no_imports()
    settings = wandb.Settings(
        console="off",
        disable_code=True,
        disable_git=True,
        finish_timeout=_timeout("FINISH"),
        finish_timeout_raises=True,
        init_timeout=_timeout("INIT"),
        silent=True,
        x_disable_machine_info=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )
    wandb.setup(settings)  # silent from the start
    # errors are raised as well
    listener = SimpleNamespace(info=_ignore, warning=on_warning, error=_ignore)
    wandb.termsetup(settings, listener)
    return settings


def find_cache() -> tuple[Path, Path] | None:
    """Ensure a writable folder for the log of W&B's process, which it would print otherwise.

    Returns the folder that cannot be written, such as one in a read-only home, and its replacement;
    ``None`` if none is needed.
    """
    from wandb.env import CACHE_DIR, get_cache_dir

    cache = get_cache_dir()
    with suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
        if os.access(cache, os.W_OK):
            os.environ[CACHE_DIR] = str(cache)  # W&B's process cannot find it without HOME
            return None
    instead = Path(tempfile.gettempdir(), f"wandb-cache-{os.getuid()}")
    os.environ[CACHE_DIR] = str(instead)
    return cache, instead


def patience() -> float:
    """Seconds within which W&B should finish any request."""
    return _timeout("INIT") + _timeout("FINISH") + GRACE


def end() -> None:
    """End W&B's service process; the next run starts another.

    Otherwise Python would wait for a hanging process, or report a dead one, at its exit.
    """
    import psutil
    import wandb

    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if child.name().startswith("wandb-core"):
                child.kill()
    with suppress(Exception, SystemExit):  # it exits with the status of the process that died
        wandb.teardown()


def _ignore(message: str) -> None:
    pass


def _timeout(name: str) -> float:
    """The value of ``WANDB_INIT_TIMEOUT`` or ``WANDB_FINISH_TIMEOUT``."""
    with suppress(KeyError, ValueError):
        seconds = float(os.environ[f"WANDB_{name}_TIMEOUT"])
        if 0 < seconds < TIMEOUT_MAX:
            return seconds
    return TIMEOUT
