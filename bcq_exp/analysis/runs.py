"""Folders of runs as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bcq_exp.analysis.compared_keys import compared_keys, differing_keys
from bcq_exp.analysis.run_folders import run_folders, run_names
from bcq_exp.analysis.run_notes import environments, oddities, provenance, ungrouped
from bcq_exp.config.naming import short_names
from bcq_exp.config.schema import source
from bcq_exp.errors import Damaged, UserError
from bcq_exp.formatting import listed, shown, told_apart
from bcq_exp.training.folders import present_status
from bcq_exp.training.record import RunRecord, Table

ABSENT = "–"  # the value of a key that a run's algorithm lacks
SHOWN = (  # fields of a summary that tables need, besides those that every reader needs
    "wall_time", "steps_per_second", "command", "config_hash", "git_commit", "versions",
    "algorithm", "losses", "watches",
)  # fmt: skip


@dataclass(frozen=True)
class RunTables:
    """Tables of runs; a run is one row of ``runs``, whose index is ``run`` in the other tables.

    Args:
        runs: name, folder, status, reason, step, num_steps, seed, dataset, behaviour_return,
            last_return, best_return, last_score, best_score, wall_time, steps_per_second, command
            and more; ``dataset`` is its id, with the hash where one id has several contents;
            ``config`` holds the keys of each one's configuration that runs are grouped by.
        evaluations: run, step, wall_time (seconds), return_mean, return_std, normalized_score,
            length_mean; a row an evaluation.
        training: run, step, wall_time and the columns of ``train.csv``; a row each logged step.
        keys: configuration keys that differ between the runs, ``seed`` left out; ``algo`` is the
            algorithm, and a key that only some algorithms have counts among those alone, one of
            the data set among runs on the same.
        notes: sentences on irregularities: half-written lines, mixed lengths or data sets,
            repeated runs, and differing keys that runs are not grouped by.
    """

    runs: pd.DataFrame
    evaluations: pd.DataFrame
    training: pd.DataFrame
    keys: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def metrics(self) -> tuple[str, ...]:
        """Return the metrics in ``training``: the losses of every algorithm first."""
        losses = (name for names in self.runs["losses"] for name in names)
        columns = [str(c) for c in self.training if c not in ("run", "step", "wall_time")]
        return tuple(dict.fromkeys([*(name for name in losses if name in columns), *columns]))

    def groups(self, keys: Iterable[str] | None = None) -> pd.Series:
        """The label of each run's group: its values of ``keys``, by default of all that differ."""
        chosen = self.keys if keys is None else tuple(keys)
        if not chosen:
            return pd.Series("all runs", index=self.runs.index)
        names = short_names([*chosen, "seed"])  # seed of the run, not of its data
        parts: list[list[str]] = [[] for _ in self.runs.index]
        for key in chosen:
            for of_run, value in zip(parts, self.values(key), strict=True):
                if value is not None:
                    of_run.append(f"{names[key]}={value}")
        without_any = ", ".join(f"{names[key]}={ABSENT}" for key in chosen)
        return pd.Series([", ".join(own) or without_any for own in parts], index=self.runs.index)

    def values(self, key: str, *, exactly: bool = False) -> list[str | None]:
        """Format a key's value in each run; None where a run lacks the key.

        Args:
            exactly: write all digits, even where fewer distinguish the values.
        """
        configs = list(self.runs["config"])
        having = [i for i, config in enumerate(configs) if key in config]
        found = [configs[i][key] for i in having]
        written = [shown(v, digits=None) for v in found] if exactly else told_apart(found)
        by_run = dict(zip(having, written, strict=True))
        return [by_run.get(i) for i in range(len(configs))]


def load_runs(*places: str | Path) -> RunTables:
    """Load every run in folders, sweeps and globs.

    Raises:
        UserError: if one of them holds no run.
    """
    found, notes = _summaries(run_folders(*places))
    if not found:
        more = f" (and {len(notes) - 1} more)" if len(notes) > 1 else ""
        raise UserError(f"no run can be read: {notes[0]}{more}")
    summaries = list(found.values())
    full = [summary["config"] for summary in summaries]
    configs, names = compared_keys(full), run_names(list(found))
    runs = pd.DataFrame(
        [_row(*each, n, c) for each, n, c in zip(found.items(), names, configs, strict=True)]
    )
    notes += _tell_contents_apart(runs, [source(config).get("path") for config in full])
    evaluations, training = _tables(found, ("eval", "train"), notes)
    keys = tuple(key for key in differing_keys(configs, list(runs["dataset"])) if key != "seed")
    notes += [*oddities(runs, evaluations, full), *ungrouped(full, configs, keys)]
    notes += [*environments(summaries), *provenance(summaries)]
    return RunTables(runs, evaluations, training, keys, tuple(notes))


def _summaries(folders: Iterable[Path]) -> tuple[dict[Path, dict[str, Any]], list[str]]:
    """Read the summary of each run by its folder; return notes on those that are left out."""
    summaries, notes = {}, []
    for folder in folders:
        try:
            summary = RunRecord(folder).summary()
        except Damaged as error:
            notes.append(f"{error.what}; left out")
            continue
        if summary is None:
            continue
        if missing := {*SHOWN} - summary.keys():
            named = ", ".join(sorted(missing))
            notes.append(f"{folder}: its summary lacks {named}; left out")
        else:
            summaries[folder] = summary
    return summaries, notes


def _tell_contents_apart(runs: pd.DataFrame, paths: Sequence[str | None]) -> list[str]:
    """Add the hash to names of data sets where one id has several contents; return notes."""
    notes = []
    hashes, files = runs["dataset_hash"].map(str), pd.Series([*paths], runs.index, object)
    for name, of_id in hashes.groupby(runs["dataset"]):
        if of_id.nunique() > 1:
            runs.loc[of_id.index, "dataset"] = f"{name}@" + of_id.str[:8]
            found = files.groupby(runs.loc[of_id.index, "dataset"]).unique()
            of_files = [f"{each} of {' and '.join(f)}" for each, f in found.items() if all(f)]
            notes.append(
                f"the id {name} has {of_id.nunique()} different contents: each is shown as a "
                f"separate data set{f' ({listed(of_files)})' if of_files else ''}"
            )
    return notes


def _row(
    folder: Path, summary: Mapping[str, Any], name: str, config: Mapping[str, Any]
) -> dict[str, Any]:
    data, last, best = summary["dataset"], summary["last"] or {}, summary["best"] or {}
    return {
        "name": name,
        "folder": str(folder),
        "status": present_status(summary, folder),
        "reason": summary["failure"],
        "step": summary["step"],
        "num_steps": summary["config"]["trainer"]["num_steps"],
        "seed": summary["seed"],
        "dataset": data["id"],
        "dataset_hash": data["content_hash"],
        "behaviour_return": data["behaviour_return"],
        "reference_scores": summary.get("reference_scores"),
        "cut_episodes": data.get("cut_episodes", 0),
        "last_return": last.get("return_mean"),
        "best_return": best.get("return_mean"),
        "last_score": last.get("normalized_score"),
        "best_score": best.get("normalized_score"),
        **{name: summary[name] for name in SHOWN},
        "config": dict(config),
        "trouble": summary.get("trouble"),
    }


def _tables(
    summaries: Mapping[Path, Mapping[str, Any]], tables: Sequence[Table], notes: list[str]
) -> list[pd.DataFrame]:
    """The tables, each of all runs, with the wall time of each step."""
    parts: dict[str, list[pd.DataFrame]] = {table: [] for table in tables}
    for index, (folder, summary) in enumerate(summaries.items()):
        record, mark = RunRecord(folder), summary["record"]
        timing: dict[str, np.ndarray] | None = None
        for table in tables:
            try:
                columns = record.columns(table, mark)
                timing = record.columns("timing", mark) if timing is None else timing
            except Damaged as error:
                notes.append(f"{error.what}; left out")
                continue
            if record.is_half_written(table):
                notes.append(
                    f"{record.folder.name}: the last line of {table}.csv is half-written; left out"
                )
            if not len(columns.get("step", ())):
                continue
            steps, wall = columns["step"], np.nan
            if len(timing.get("step", ())):
                wall = np.interp(steps, timing["step"], timing["wall_time"])
            parts[table].append(
                pd.DataFrame({"run": index, "step": steps, "wall_time": wall, **columns})
            )
    nothing = pd.DataFrame({"run": [], "step": [], "wall_time": []})
    return [pd.concat(parts[t], ignore_index=True) if parts[t] else nothing for t in tables]
