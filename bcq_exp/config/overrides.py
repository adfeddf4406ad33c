"""Overrides and configurations that commands make for other commands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf


def online_agent(
    *,
    num_steps: int,
    start_steps: int,
    noise_std: str | float,
    networks: str,
    precision: str,
    eval_every: int,
    logger: str,
    env: str,
    seed: str | int,
) -> tuple[str, ...]:
    """Overrides of ``bcq_exp train`` for a behaviour agent of the paper: DDPG that explores.

    Several environments, noises or seeds (:func:`one_of`) make a sweep.
    """
    return (
        "algo=ddpg",
        "online=explore",
        f"networks={networks}",
        "trainer=paper",
        f"trainer.num_steps={num_steps}",
        f"trainer.eval_every={eval_every}",
        f"trainer.precision={precision}",
        f"logger={logger}",
        f"online.start_steps={start_steps}",
        f"online.env={env}",
        f"online.noise_std={noise_std}",
        f"seed={seed}",
    )


def one_of(values: Iterable[object]) -> str:
    """The values of a swept key, even if there is only one."""
    return f"choice({','.join(map(str, values))})"


def key_and_value(override: str) -> tuple[str, str]:
    """Split ``KEY=VALUE``; the key is without Hydra's ``+`` or ``++``."""
    key, _, value = override.lstrip("+").partition("=")
    return key, value


def with_params(params: Mapping[str, Any], arguments: Iterable[str]) -> list[str]:
    """The overrides of a sweep: its ``params`` and the arguments, the last of each key."""
    lines = [*(f"{key}={values}" for key, values in params.items()), *arguments]
    return list({key_and_value(line)[0]: line for line in lines}.values())


def resuming(overrides: Iterable[str]) -> list[str]:
    """The overrides of a run with ``resume=auto``, once its command has set old runs aside."""
    kept = [o for o in overrides if key_and_value(o)[0] != "resume"]
    return [*kept, "resume=auto"]


def changed(cfg: DictConfig, values: Mapping[str, Any]) -> DictConfig:
    """Return a copy of a configuration with some values replaced, given in nested mappings."""
    merged = OmegaConf.merge(cfg, values)
    assert isinstance(merged, DictConfig)
    return merged
