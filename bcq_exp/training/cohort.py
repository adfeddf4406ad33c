"""Runs that are trained together: what they must agree in, and how a group of them is trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from bcq_exp.config import flattened
from bcq_exp.errors import UserError
from bcq_exp.training import checkpoint
from bcq_exp.training.job import Job
from bcq_exp.training.record import RunRecord

# What may differ inside a cohort; of all else there is one value. num_sampled_action is not here:
# runs of few samples would pay for those of many.
_MAY_DIFFER = (
    "seed",
    "name",
    "resume",
    "logger",
    "algo.gamma",
    "algo.lmbda",
    "algo.tau",
    "actor.phi",
    "vae.kl_weight",
    "vae.latent_clip",
    "actor_optim",
    "critic_optim",
    "vae_optim",
    "policy.forward_sampled_times",
    "trainer.eval_episodes",
    "trainer.eval_seed",
    "trainer.objective",
)
STACK_SIZE = 16  # more are no faster: tests/bench/RESULTS.md
_OPTIMIZERS = ("actor_optim", "critic_optim", "vae_optim")


def cohorts(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs that can be trained together: same data, sizes, cadence and present step.

    Inside a cohort those of equal optimizers stand side by side, as the stack wants them.
    """
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(_shared(job), []).append(job)
    return [sorted(group, key=_optimizers) for group in groups.values()]


def group_size(jobs: Sequence[Job], wanted: int | str) -> int:
    """How many of a cohort's jobs to train at a time.

    ``auto`` is as many as are fastest: on a GPU as many as fit, on a CPU a stack of
    STACK_SIZE small runs a core, or one run a core where stacking does not pay.

    Raises:
        UserError: if ``wanted`` runs do not fit in memory.
    """
    import torch

    from bcq_exp.training import build
    from bcq_exp.training.memory import free_bytes, run_bytes

    cfg = jobs[0].cfg
    device = build.resolve_device(cfg.trainer.device)
    fitting = max(1, int(free_bytes(device) // run_bytes(cfg)))
    if wanted == "auto":
        cores = cfg.trainer.num_threads or torch.get_num_threads()
        a_core = STACK_SIZE if build.pays_to_stack(cfg) else 1
        fastest = len(jobs) if device.type == "cuda" else cores * a_core
        return min(fastest, fitting)
    size = min(int(wanted), len(jobs))
    if size > fitting:
        raise UserError(
            f"hydra.launcher.group_size={wanted}: {size} runs of these networks need about "
            f"{size * run_bytes(cfg) / 2**30:.1f} GiB, {free_bytes(device) / 2**30:.1f} GiB are "
            f"free; at most {fitting}, or auto"
        )
    return size


def train_cohort(jobs: Sequence[Job]) -> list[str | None]:
    """Train the jobs of one cohort to their end; for each, why it failed, or ``None``.

    Raises:
        RunStopped: after a signal, with every run's checkpoint saved.
        UserError: if data set, environment or device cannot be had.
    """
    from bcq_exp.training import build
    from bcq_exp.training.memory import keep_freed_memory

    cfg = jobs[0].cfg
    precision = build.build_precision(cfg)  # says what is lacking before the data is loaded
    keep_freed_memory()
    dataset = build.build_dataset(cfg)
    with build.threads([job.cfg for job in jobs]) as num_threads, precision.in_force():
        trainer = build.build_trainer(jobs, dataset, num_threads)
        trainer.fit()
    return [run.failure for run in trainer.runs]


def _shared(job: Job) -> str:
    resolved: Any = OmegaConf.to_container(job.cfg, resolve=True)
    shared = {
        key: value
        for key, value in flattened(resolved)
        if not any(key == k or key.startswith(f"{k}.") for k in _MAY_DIFFER)
    }
    return json.dumps([shared, _step(job)], sort_keys=True)


def _step(job: Job) -> int:
    path = RunRecord(job.folder).checkpoint
    return checkpoint.load(path)["step"] if path.exists() else 0


def _optimizers(job: Job) -> str:
    return json.dumps([OmegaConf.to_container(job.cfg[name]) for name in _OPTIMIZERS])
