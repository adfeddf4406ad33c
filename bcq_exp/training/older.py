"""Runs that earlier versions recorded, in the words of this one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

_BCQ = "bcq_exp.algorithm.bcq.BCQ"  # before 0.2 there was no other


def summary_of_today(summary: dict[str, Any]) -> dict[str, Any]:
    """``summary.json`` as this version writes it."""
    if "trainer" not in summary.get("config", {}):
        return summary
    summary = {**summary, "config": with_engine(summary["config"])}
    if "_target_" in summary["config"].get("algo", {}):
        return summary
    from bcq_exp.algorithm.bcq import BCQ, watches

    return {
        **summary,
        "config": config_of_today(summary["config"]),
        "algorithm": BCQ.__name__,
        "losses": list(BCQ.losses()),
        "watches": [asdict(watch) for watch in watches(summary.get("perturbation_bound"))],
    }


def config_of_today(config: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved configuration as this version composes it."""
    return {
        **config,
        "algo": {"_target_": _BCQ, **config["algo"]},
        "trainer": {"concurrent_from": None, **config["trainer"]},
    }


def with_engine(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with ``trainer.engine`` in place of the keys that it replaced."""
    kept = {k: v for k, v in config["trainer"].items() if k not in ("capture", "compile")}
    return {**config, "trainer": {"engine": "auto", **kept}}


def checkpoint_of_today(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """``checkpoint.pt`` of format 1 as format 2 has it."""
    engine = dict(checkpoint["engine"])
    engine["algorithm"] = engine.pop("bcq")
    return {**checkpoint, "engine": engine, "config": config_of_today(checkpoint["config"])}
