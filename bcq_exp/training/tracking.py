"""Weights & Biases as a mirror of the local files: its failing never stops a run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from bcq_exp.errors import first_line

log = logging.getLogger(__name__)

INIT_TIMEOUT_S = 30


class Tracker(Protocol):
    """Where a run's rows go besides its folder."""

    id: str | None

    def log(self, prefix: str, row: Mapping[str, Any]) -> None:
        """A row with its ``step``; the other entries get ``prefix/`` before their names."""

    def finish(self, summary: Mapping[str, Any], exit_code: int) -> None:
        """The run's last words."""


class NoTracker:
    """Tracks nothing (``logger.mode=disabled``)."""

    id: str | None = None

    def log(self, prefix: str, row: Mapping[str, Any]) -> None:
        pass

    def finish(self, summary: Mapping[str, Any], exit_code: int) -> None:
        pass


class WandbTracker:
    """One W&B run.

    Where W&B cannot be reached, is not logged in to, or raises later on, one warning is logged; the
    run goes on, recorded offline if that still works and in its local files in any case.

    Args:
        mode: offline or online.
        folder: the run's folder; W&B writes ``wandb/`` in it.
        id: W&B's id of the run to continue; ``None`` starts a new one.
        config: the resolved configuration, logged whole.
        identity: project, entity, group, job_type, tags and name, as ``wandb.init`` takes them.
    """

    def __init__(
        self,
        *,
        mode: str,
        folder: Path,
        id: str | None,
        config: Mapping[str, Any],
        identity: Mapping[str, Any],
    ) -> None:
        self.id = id
        self._run: Any = None
        with self._tolerant("cannot start"):
            self._run = run = _start(mode, dir=folder, id=id, config=dict(config), **identity)
            self.id = run.id
            run.define_metric("step")
            run.define_metric("train/*", step_metric="step")
            run.define_metric("eval/*", step_metric="step")
            # the best is kept beside the last, which W&B's summary would otherwise show alone
            run.define_metric("eval/return_mean", step_metric="step", summary="max,last")

    def log(self, prefix: str, row: Mapping[str, Any]) -> None:
        if self._run is not None:
            named = {k if k == "step" else f"{prefix}/{k}": v for k, v in row.items()}
            with self._tolerant("failed"):
                self._run.log({k: v for k, v in named.items() if v is not None})

    def finish(self, summary: Mapping[str, Any], exit_code: int) -> None:
        if self._run is not None:
            with self._tolerant("failed at the end"):
                self._run.summary.update(dict(summary))
                self._run.finish(exit_code=exit_code)

    @contextmanager
    def _tolerant(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever W&B raises, training goes on
            log.warning("W&B %s (%s): this run is in its local files only", what, first_line(error))
            self._run = None


def _start(mode: str, **arguments: Any) -> Any:
    """A W&B run; an offline one where it should be online and cannot."""
    import wandb

    settings = wandb.Settings(  # lean: no console capture, system statistics or code copies
        console="off",
        disable_code=True,
        disable_git=True,
        init_timeout=INIT_TIMEOUT_S,
        silent=True,
        x_disable_machine_info=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )

    def init(mode: Literal["online", "offline"]) -> Any:
        resume: Literal["allow"] | None = "allow" if arguments["id"] else None
        return wandb.init(
            mode=mode, resume=resume, reinit="create_new", settings=settings, **arguments
        )

    if mode == "online":
        try:
            if not _is_logged_in():  # init would ask for a key at the terminal
                raise RuntimeError("not logged in: run `wandb login`")
            return init("online")
        except Exception as error:
            log.warning("W&B cannot go online (%s): recording offline", first_line(error))
    return init("offline")


def _is_logged_in() -> bool:
    import wandb
    from wandb.sdk.lib import wbauth

    settings = wandb.setup().settings
    key = settings.api_key or settings.identity_token_file
    return bool(key or wbauth.read_netrc_auth(host=settings.base_url))
