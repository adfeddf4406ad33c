"""Control W&B and its service process: start runs without output, and end it."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import TIMEOUT_MAX
from typing import Any

from bcq_exp.internals import netrc_key

# Seconds; W&B's variables WANDB_INIT_TIMEOUT and WANDB_FINISH_TIMEOUT take precedence.
INIT_TIMEOUT = 30.0  # to connect, before going offline
FINISH_TIMEOUT = 30.0  # to upload what is left when a run has ended
GRACE = 10.0  # after both, before W&B's process is ended


def set_up(on_warning: Callable[[str], None]) -> Any:
    """Make settings for this process's runs: silent, without console capture, system statistics
    or copies of code; ``on_warning`` is called with W&B's warnings.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # it prints to this process's stderr
    import wandb

    settings = wandb.Settings(
        console="off",
        disable_code=True,
        disable_git=True,
        finish_timeout=_finish_timeout(),
        finish_timeout_raises=True,
        init_timeout=_init_timeout(),
        silent=True,
        x_disable_machine_info=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )
    wandb.setup(settings)  # silent from the start
    wandb.termsetup(settings, _Listener(on_warning))
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
            return None
    instead = Path(tempfile.gettempdir(), f"wandb-cache-{os.getuid()}")
    os.environ[CACHE_DIR] = str(instead)
    return cache, instead


def begin_run(settings: Any, **arguments: Any) -> Any:
    """Start a W&B run alongside others, with arguments of ``wandb.init``."""
    import wandb

    return wandb.init(reinit="create_new", settings=settings, **arguments)


def new_id() -> str:
    """Return a new id for a run."""
    return secrets.token_hex(4)


def is_logged_in() -> bool:
    """Whether W&B has a key; without one it would prompt for it."""
    import wandb

    settings = wandb.setup().settings
    key = settings.api_key or settings.identity_token_file
    return bool(key or netrc_key(settings.base_url))


def patience() -> float:
    """Seconds within which W&B should finish any request."""
    return _init_timeout() + _finish_timeout() + GRACE


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


class _Listener:
    """Receives W&B's messages."""

    def __init__(self, on_warning: Callable[[str], None]) -> None:
        self.warning = on_warning

    def info(self, message: str) -> None:
        """Ignore information."""

    def error(self, message: str) -> None:
        """Ignore errors, which are raised as well."""


def _init_timeout() -> float:
    return _timeout("INIT", INIT_TIMEOUT)


def _finish_timeout() -> float:
    return _timeout("FINISH", FINISH_TIMEOUT)


def _timeout(name: str, default: float) -> float:
    with suppress(KeyError, ValueError):
        seconds = float(os.environ[f"WANDB_{name}_TIMEOUT"])
        if 0 < seconds < TIMEOUT_MAX:
            return seconds
    return default
