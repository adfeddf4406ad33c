"""Folders of runs as tables."""

from __future__ import annotations

import glob
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bcq_exp.config.meaning import compared
from bcq_exp.errors import Damaged, UserError
from bcq_exp.training.record import Marks, RunRecord, Table, present_status

ALGORITHM = "algo"


@dataclass(frozen=True)
class RunTables:
    """Runs side by side; a run is one row of ``runs``, and its index there is ``run`` elsewhere.

    Args:
        runs: name, folder, status, reason, step, num_steps, seed, dataset, behaviour_return,
            last_return, best_return, last_score, best_score, wall_time, steps_per_second, command
            and more; ``config`` holds each one's whole configuration, flattened.
        evaluations: run, step, wall_time (seconds), return_mean, return_std, normalized_score,
            length_mean; a row an evaluation.
        training: run, step, wall_time and the columns of ``train.csv``; a row each logged step.
        keys: configuration keys that differ between the runs, ``seed`` left out; ``algo`` is the
            algorithm, and a key that only some algorithms have counts among those alone.
        notes: what is odd about the runs, in words: half-written lines, mixed lengths or data sets.
    """

    runs: pd.DataFrame
    evaluations: pd.DataFrame
    training: pd.DataFrame
    keys: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def told(self) -> tuple[str, ...]:
        """The columns of training: every algorithm's losses first, then what else they tell."""
        losses = (name for names in self.runs["losses"] for name in names)
        columns = [str(c) for c in self.training if c not in ("run", "step", "wall_time")]
        return tuple(dict.fromkeys([*(name for name in losses if name in columns), *columns]))

    def groups(self, keys: Iterable[str] | None = None) -> pd.Series:
        """The label of each run's group: its values of ``keys``, by default of all that differ."""
        chosen = self.keys if keys is None else tuple(keys)
        if not chosen:
            return pd.Series("all runs", index=self.runs.index)
        names = short_names(chosen)
        parts: list[list[str]] = [[] for _ in self.runs.index]
        for key in chosen:
            having = [i for i, config in enumerate(self.runs["config"]) if key in config]
            values = told_apart([self.runs["config"].iloc[i][key] for i in having])
            for i, value in zip(having, values, strict=True):
                parts[i].append(f"{names[key]}={value}")
        return pd.Series(list(map(", ".join, parts)), index=self.runs.index)


def load_runs(*places: str | Path) -> RunTables:
    """Every run in folders, sweeps and globs.

    Raises:
        UserError: if one of them holds no run.
    """
    records = [RunRecord(folder) for folder in run_folders(*places)]
    summaries, notes = _summaries(records)
    read = [record for record in records if record.folder in summaries]
    if not read:
        more = f" (and {len(notes) - 1} more)" if len(notes) > 1 else ""
        raise UserError(f"no run is whole: {notes[0]}{more}")
    configs = [_compared(summaries[record.folder]["config"]) for record in read]
    names = run_names([record.folder for record in read])
    runs = pd.DataFrame(
        [_row(r, summaries[r.folder], n, c) for r, n, c in zip(read, names, configs, strict=True)]
    )
    marks = [summaries[record.folder]["record"] for record in read]
    evaluations, training = _tables(read, marks, ("eval", "train"), notes)
    keys = tuple(key for key in _differing(configs) if key != "seed")
    return RunTables(runs, evaluations, training, keys, tuple(notes + _oddities(runs, evaluations)))


def run_folders(*places: str | Path) -> list[Path]:
    """The folder of every run in folders, sweeps and globs, each once.

    Raises:
        UserError: if one of them holds no run.
    """
    found: dict[Path, Path] = {}
    for place in places:
        folders = list(_run_folders(str(place)))
        if not folders and not _is_of_a_sweep(Path(place)):
            raise UserError(
                f"{place}: no runs found; give folders of runs or sweeps, such as multirun/NAME"
            )
        for folder in folders:
            found.setdefault(folder.resolve(), folder)
    if not found:
        raise UserError(
            f"{places[0]}: no runs found; give the sweep's folder, {Path(places[0]).parent}"
        )
    return list(found.values())


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Each key's last part where that tells it apart, else the whole key."""
    last = {key: key.rsplit(".", 1)[-1] for key in keys}
    counts = Counter(last.values())
    return {key: name if counts[name] == 1 else key for key, name in last.items()}


def shown(value: Any, *, exactly: bool = False) -> str:
    """A configuration value as a person writes it."""
    if value is None:
        return "null"
    if isinstance(value, float):
        return repr(value).removesuffix(".0") if exactly else f"{value:.4g}"
    if isinstance(value, list):
        return "-".join(shown(each, exactly=exactly) for each in value)
    return str(value)


def told_apart(values: Sequence[Any]) -> list[str]:
    """A key's values as a person writes them, exactly where shorter ones would be the same."""
    short = [shown(value) for value in values]
    exact = [shown(value, exactly=True) for value in values]
    return short if len({*short}) == len({*exact}) else exact


def _is_of_a_sweep(place: Path) -> bool:
    """Whether it lies beside a sweep's runs, as what a shell makes of ``multirun/NAME/*`` does."""
    return place.exists() and (place.parent / "multirun.yaml").exists()


def _run_folders(place: str) -> Iterator[Path]:
    for match in [place] if Path(place).exists() else sorted(glob.glob(place)):
        path = Path(match)
        if (path / "summary.json").exists():
            yield path
        else:
            found = sorted(path.glob("*/summary.json"), key=_as_people_sort)
            yield from (summary.parent for summary in found)


def _as_people_sort(path: Path) -> tuple[Any, ...]:
    name = path.parent.name
    return (0, int(name), "") if name.isdigit() else (1, 0, name)


def _summaries(records: list[RunRecord]) -> tuple[dict[Path, dict[str, Any]], list[str]]:
    summaries, notes = {}, []
    for record in records:
        try:
            summary = record.summary()
        except Damaged as error:
            notes.append(f"{error.what}; left out")
            continue
        if summary is not None:
            summaries[record.folder] = summary
    return summaries, notes


def _compared(config: Mapping[str, Any]) -> dict[str, Any]:
    """What runs are told apart by; the algorithm by its name."""
    found = compared(config)
    return {ALGORITHM: str(found.pop("algo._target_")).rpartition(".")[2], **found}


def _differing(configs: list[dict[str, Any]]) -> list[str]:
    """Keys that differ, the algorithm first; others than that among runs of one algorithm."""
    algorithms = list(dict.fromkeys(config[ALGORITHM] for config in configs))
    found = [ALGORITHM] if len(algorithms) > 1 else []
    for algorithm in algorithms:
        found += _differing_within([c for c in configs if c[ALGORITHM] == algorithm])
    return list(dict.fromkeys(found))


def _differing_within(configs: list[dict[str, Any]]) -> list[str]:
    keys = list(dict.fromkeys(key for config in configs for key in config))
    missing = object()
    return [
        key
        for key in keys
        if len({json.dumps(config.get(key, str(missing))) for config in configs}) > 1
    ]


def run_names(folders: Sequence[Path]) -> list[str]:
    """The folders' names; with their parents' where those alone are not enough."""
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) == len(names):
        return names
    return [f"{folder.resolve().parent.name}/{folder.resolve().name}" for folder in folders]


def _row(
    record: RunRecord, summary: Mapping[str, Any], name: str, config: Mapping[str, Any]
) -> dict[str, Any]:
    data, last, best = summary["dataset"], summary["last"], summary["best"]
    return {
        "name": name,
        "folder": str(record.folder),
        "status": present_status(summary, record.folder),
        "reason": summary["failure"],
        "step": summary["step"],
        "num_steps": summary["config"]["trainer"]["num_steps"],
        "seed": summary["seed"],
        "dataset": data["id"],
        "dataset_hash": data["content_hash"],
        "behaviour_return": data["behaviour_return"],
        "last_return": None if last is None else last["return_mean"],
        "best_return": None if best is None else best["return_mean"],
        "last_score": None if last is None else last["normalized_score"],
        "best_score": None if best is None else best["normalized_score"],
        "best_step": None if best is None else best["step"],
        "wall_time": summary["wall_time"],
        "steps_per_second": summary["steps_per_second"],
        "command": summary["command"],
        "config_hash": summary["config_hash"],
        "git_commit": summary["git_commit"],
        "versions": summary["versions"],
        "config": dict(config),
        "algorithm": summary["algorithm"],
        "losses": summary["losses"],
        "watches": summary["watches"],
    }


def _tables(
    records: list[RunRecord], marks: list[Marks], tables: Sequence[Table], notes: list[str]
) -> list[pd.DataFrame]:
    """The tables, each of all runs, with the wall time of each step."""
    parts: dict[str, list[pd.DataFrame]] = {table: [] for table in tables}
    for index, (record, mark) in enumerate(zip(records, marks, strict=True)):
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
            known = bool(len(timing.get("step", ())))
            wall = (
                np.interp(columns["step"], timing["step"], timing["wall_time"])
                if known
                else np.full(len(columns["step"]), np.nan)
            )
            rest = {name: column for name, column in columns.items() if name != "step"}
            parts[table].append(
                pd.DataFrame({"run": index, "step": columns["step"], "wall_time": wall, **rest})
            )
    nothing = pd.DataFrame({"run": [], "step": [], "wall_time": []})
    return [pd.concat(parts[t], ignore_index=True) if parts[t] else nothing for t in tables]


def _oddities(runs: pd.DataFrame, evaluations: pd.DataFrame) -> list[str]:
    notes = []
    for index in runs.index.difference(pd.Index(evaluations["run"].unique())):
        notes.append(f"{runs['name'][index]}: no evaluation yet")
    if runs["dataset"].nunique() > 1:
        named = ", ".join(sorted(runs["dataset"].unique()))
        unscored = runs["last_return"].notna() & runs["last_score"].isna()
        how = "normalized score"
        if unscored.any() and runs["last_score"].notna().any():
            without = ", ".join(sorted(runs["dataset"][unscored].unique()))
            how += f", without those that have none ({without})"
        elif unscored.any():
            how = "return, which need not be one scale: none has a normalized score"
        notes.append(f"several data sets ({named}): compared by {how}")
    if runs["num_steps"].nunique() > 1:
        lengths = ", ".join(map(str, sorted(runs["num_steps"].unique())))
        notes.append(f"runs of different lengths ({lengths} steps): last evaluations are not alike")
    stopped = runs[runs["status"] == "stopped"]
    if len(stopped):
        at = " and ".join(map(str, sorted(stopped["step"].unique())))
        notes.append(
            f"{len(stopped)} runs were stopped early, at steps {at}: their last evaluations are of "
            "there"
        )
    return notes
