"""What is asked of W&B itself, and of its process: to start runs, in silence, and to end."""

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

# Seconds; W&B's own variables WANDB_INIT_TIMEOUT and WANDB_FINISH_TIMEOUT go before them.
INIT_TIMEOUT = 30.0  # to go online, or else offline
FINISH_TIMEOUT = 30.0  # to upload what is left when a run has ended
GRACE = 10.0  # beyond both, in which W&B's process keeps its word or is ended


def set_up(on_warning: Callable[[str], None]) -> Any:
    """Settings for this process's runs: lean, without console capture, system statistics or code
    copies, and silent; ``on_warning`` takes W&B's warnings.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # it complains on our stderr
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
    wandb.setup(settings)  # silent from its first word on, but for
    wandb.termsetup(settings, _Listener(on_warning))
    return settings


def find_cache() -> tuple[Path, Path] | None:
    """See that W&B's process has a folder for its own log: without one it prints it here.

    Returns the folder that cannot be written, such as one of a home that is read-only, and the one
    that takes its place; ``None`` if all is well.
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
    """A W&B run beside others, by the arguments of ``wandb.init``."""
    import wandb

    return wandb.init(reinit="create_new", settings=settings, **arguments)


def new_id() -> str:
    """An id for a run."""
    return secrets.token_hex(4)


def is_logged_in() -> bool:
    """Whether W&B has a key; without one it would ask at the terminal."""
    import wandb

    settings = wandb.setup().settings
    key = settings.api_key or settings.identity_token_file
    return bool(key or netrc_key(settings.base_url))


def patience() -> float:
    """Seconds in which W&B should have done whatever it is asked for."""
    return _init_timeout() + _finish_timeout() + GRACE


def end() -> None:
    """End W&B's process for this one; the next run gets another.

    One that died or hangs would else be waited for, or complained about, when Python ends.
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
    """Takes what W&B would print."""

    def __init__(self, on_warning: Callable[[str], None]) -> None:
        self.warning = on_warning

    def info(self, message: str) -> None:
        """News are not passed on."""

    def error(self, message: str) -> None:
        """Nor are errors, which are raised as well."""


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
