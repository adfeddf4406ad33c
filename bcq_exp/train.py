"""``python -m bcq_exp``: train one run, or with ``-m`` a sweep. Returns the sweep's objective."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig

from bcq_exp.cli import entry
from bcq_exp.errors import RunStopped
from bcq_exp.training import launch

log = logging.getLogger(__name__)


@entry("config", before_run=launch.check_folder)
def main(cfg: DictConfig) -> float:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    title = hydra.job.override_dirname if hydra.mode == RunMode.MULTIRUN else None
    return train(cfg, Path(hydra.runtime.output_dir), title)


def train(cfg: DictConfig, folder: Path, title: str | None = None) -> float:
    """Train the run of a folder to its end, from its checkpoint if it has one.

    ``title`` names it on the terminal and in W&B, by default as the folder.

    Raises:
        RunStopped: if the run failed or was stopped by a signal.
        UserError: if data set, environment or device cannot be had.
    """
    import torch

    from bcq_exp.training import build, checkpoint
    from bcq_exp.training.record import RunRecord

    record = RunRecord(folder)
    summary = record.summary()
    if summary is not None:
        launch.check_continues(cfg, summary, folder)
    if launch.is_completed(cfg, summary):
        log.info("%s is complete: nothing to do (trainer.num_steps=... goes on)", folder)
    else:
        saved = checkpoint.load(record.checkpoint) if record.checkpoint.exists() else None
        build.build_precision(cfg)  # says what this machine lacks before the data is loaded
        torch.set_num_threads(build.num_threads(cfg))
        dataset = build.build_dataset(cfg)
        trainer, run = build.build_trainer(cfg, dataset, record, saved, title=title or folder.name)
        log.info(
            "%s: %d transitions, behaviour's return %.1f",
            dataset.id,
            len(dataset.transitions),
            dataset.behaviour_return,
        )
        trainer.fit()
        if run.failure is not None:
            raise RunStopped(f"run failed: {run.failure}; its files are in {folder}", status=1)
        summary = record.summary()
    assert summary is not None
    _report(folder, summary)
    return launch.objective(cfg, summary)


def _report(folder: Path, summary: dict) -> None:
    last, best, data = summary["last"], summary["best"], summary["dataset"]
    log.info("")
    log.info(
        "  behaviour's return  %10.1f   mean of %d episodes of %s",
        data["behaviour_return"],
        data["num_episodes"],
        data["id"],
    )
    log.info("  BCQ, last           %10.1f   step %d", last["return_mean"], last["step"])
    log.info("  BCQ, best           %10.1f   step %d", best["return_mean"], best["step"])
    log.info("  files               %s", folder)


if __name__ == "__main__":
    main()
