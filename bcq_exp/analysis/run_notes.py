"""Notes on runs that are compared: what makes them differ, or a comparison uncertain."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bcq_exp.analysis.compared_keys import ORIGIN
from bcq_exp.config.identity import annotation_keys, report_keys
from bcq_exp.config.schema import source
from bcq_exp.formatting import counted, listed, shown, told_apart


def oddities(
    runs: pd.DataFrame, evaluations: pd.DataFrame, configs: Sequence[Mapping[str, Any]]
) -> list[str]:
    notes = []
    are_evaluated = [config["trainer"].get("eval_episodes") != 0 for config in configs]
    wanted = runs.index[are_evaluated]
    unevaluated = wanted.difference(pd.Index(evaluations["run"].unique()))
    if len(unevaluated):
        more = f" (and {counted(len(unevaluated) - 1, 'more run')})" * (len(unevaluated) > 1)
        notes.append(f"{runs['name'][unevaluated[0]]}: no evaluation yet{more}")
    is_finite = np.isfinite(pd.to_numeric(runs["last_return"]))
    if len(odd := runs["name"][~is_finite & runs.index.isin(evaluations["run"])]):
        of = counted(len(odd), "run")
        are = "it is" if len(odd) == 1 else "they are"
        notes.append(f"the last return of {of} is not finite ({listed(list(odd))}): {are} left out")
    if runs["dataset"].nunique() > 1:
        named = listed(sorted(runs["dataset"].unique()))
        unscored = runs["last_return"].notna() & runs["last_score"].isna()
        how = "normalized score"
        if unscored.any() and runs["last_score"].notna().any():
            without = ", ".join(sorted(runs["dataset"][unscored].unique()))
            how += f"; left out, as without reference scores: {without}"
        elif unscored.any():
            how = "return, whose scale may differ, as no data set has reference scores"
        notes.append(f"several data sets ({named}): compared by {how}")
    settings = runs["config"].map(lambda config: json.dumps(config, sort_keys=True))
    settings += runs["dataset"].map(str) + runs["dataset_hash"].map(str)
    if len(repeated := runs["name"][settings.duplicated()]):
        notes.append(
            f"{counted(len(repeated), 'run repeats', 'runs repeat')} another with the same "
            f"configuration, seed and data ({listed(list(repeated))}): intervals count every run "
            "as independent and are too narrow"
        )
    if runs["num_steps"].nunique() > 1:
        lengths = ", ".join(map(str, sorted(runs["num_steps"].unique())))
        notes.append(
            f"runs have different lengths ({lengths} steps): last evaluations are at other steps"
        )
    failed = runs[runs["status"] == "failed"]
    if len(failed):
        known = int(failed["last_return"].notna().sum())
        notes.append(
            f"{counted(len(failed), 'run')} failed: the last evaluation of {known} of them is "
            f"compared{', the others have none' * (known < len(failed))}"
        )
    running = runs[runs["status"] == "running"]
    if len(running):
        low, high = running["step"].min(), running["step"].max()
        at = f"step {low}" if low == high else f"steps {low} to {high}"
        of = " or ".join(map(str, sorted(running["num_steps"].unique())))
        are = counted(len(running), "run is", "runs are")
        notes.append(
            f"{are} still running, at {at} of {of}: last evaluations are at other steps than "
            "those of completed runs"
        )
    stopped = runs[runs["status"] == "stopped"]
    if len(stopped):
        steps = sorted(stopped["step"].unique())
        at = f"step{'s' * (len(steps) > 1)} {' and '.join(map(str, steps))}"
        were = counted(len(stopped), "run was", "runs were")
        notes.append(f"{were} stopped early, at {at}: last evaluations are those of that step")
    return notes


def ungrouped(
    configs: Sequence[Mapping[str, Any]],
    compared: Sequence[Mapping[str, Any]],
    keys: Sequence[str],
) -> list[str]:
    """Describe the keys that differ but do not group runs; ``keys`` of ``compared`` do.

    Between groups, which may be of different algorithms, these are the keys of the trainer only.
    """
    within: dict[str, dict[str, dict[str, Any]]] = {}  # by key, group and text
    for config, of_run in zip(configs, compared, strict=True):
        group = json.dumps([of_run.get(key) for key in keys])
        for key, value in {**report_keys(config), **annotation_keys(config)}.items():
            if key not in (*ORIGIN, "seed", *keys) and not key.endswith("_target_"):
                within.setdefault(key, {}).setdefault(group, {})[json.dumps(value)] = value
    inside, between = [], []
    for key, groups in within.items():
        values = {text: value for group in groups.values() for text, value in group.items()}
        said = f"{key} ({listed(told_apart(list(values.values())))})"
        if any(len(group) > 1 for group in groups.values()):
            inside.append(said)
        elif len(values) > 1 and key.startswith("trainer."):
            between.append(said)
    return [
        *[f"groups contain runs that differ in {listed(inside)}"] * bool(inside),
        *[f"groups differ in {listed(between)}, too"] * bool(between),
    ]


def environments(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Describe how an environment or its reference scores differ under the same keys."""
    values: dict[tuple[str, str], dict[str, Any]] = {}
    for summary in summaries:
        env = source(summary["config"]).get("env")
        where = summary["dataset"]["id"] + (f" in {env}" if env else "")
        if "environment" not in summary:  # of an earlier version
            continue
        compared = {**summary["environment"], "reference_scores": summary["reference_scores"]}
        for name, value in compared.items():
            values.setdefault((where, name), {})[json.dumps(value)] = value
    differing: dict[str, list[str]] = {}
    for (where, name), each in values.items():
        if len(each) > 1:
            differing.setdefault(where, []).append(f"{name} ({listed([*each])})")
    return [
        f"runs on {where} were evaluated in environments that differ in {listed(names)}"
        for where, names in differing.items()
    ]


def provenance(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Describe the versions and commits that differ, also within a run that was resumed."""
    values: dict[str, dict[str, None]] = {}
    for part in (part for s in summaries for part in (*s.get("earlier", ()), s)):
        commit = part["git_commit"]
        versions = {**part["versions"], "commit": None if commit is None else commit[:8]}
        for name, version in versions.items():
            values.setdefault(name, {})[shown(version)] = None
    found = [f"{name} ({listed(list(each))})" for name, each in values.items() if len(each) > 1]
    return [f"runs were made with several versions of {listed(found)}"] * bool(found)
