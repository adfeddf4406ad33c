"""Folders of runs as tables."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bcq_exp.config.identity import annotation_keys, report_keys
from bcq_exp.config.naming import short_names
from bcq_exp.config.schema import source
from bcq_exp.errors import Damaged, UserError
from bcq_exp.formatting import counted, listed, shown
from bcq_exp.training.record import RunRecord, Table, present_status

ALGORITHM = "algo"
ABSENT = "–"  # the value of a key that a run's algorithm lacks
OF_DATA = "dataset."
# keys of data sets that runs are not grouped by: the id and hash of the contents say what they do
ORIGIN = {
    f"{OF_DATA}{name}" for name in ("_target_", "id", "path", "download", "use_cache", "level")
}
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
    configs, names = _compared(full), run_names(list(found))
    runs = pd.DataFrame(
        [_row(*each, n, c) for each, n, c in zip(found.items(), names, configs, strict=True)]
    )
    notes += _tell_contents_apart(runs, [source(config).get("path") for config in full])
    evaluations, training = _tables(found, ("eval", "train"), notes)
    keys = tuple(key for key in _differing(configs, list(runs["dataset"])) if key != "seed")
    notes += [*_oddities(runs, evaluations, full), *_ungrouped(full, configs, keys)]
    notes += [*_environments(summaries), *_provenance(summaries)]
    return RunTables(runs, evaluations, training, keys, tuple(notes))


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


def told_apart(values: Sequence[Any]) -> list[str]:
    """Format a key's values with the fewest digits, at least four, that distinguish them."""
    exact = [shown(value, digits=None) for value in values]
    rounded = ([shown(value, digits=count) for value in values] for count in range(4, 17))
    return next((texts for texts in rounded if len({*texts}) == len({*exact})), exact)


def _is_of_a_sweep(place: Path) -> bool:
    """Whether a path lies in a sweep's folder, as files that ``multirun/NAME/*`` matches."""
    return place.exists() and (place.parent / "multirun.yaml").exists()


def _run_folders(place: str) -> Iterator[Path]:
    for match in [place] if Path(place).exists() else sorted(glob.glob(place)):
        found = []
        for folder, below, names in os.walk(match, followlinks=True):
            below[:] = [name for name in below if not name.startswith(".")]
            if "summary.json" in names:
                found.append(Path(folder))
                below.clear()
        yield from sorted(found, key=_as_people_sort)


def _as_people_sort(path: Path) -> tuple[Any, ...]:
    name, above = path.name, str(path.parent)
    return (above, 0, int(name), "") if name.isdecimal() else (above, 1, 0, name)


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


def _compared(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the compared keys of runs; the algorithm by its short name if that is unique."""
    targets = [str(config["algo"]["_target_"]) for config in configs]
    names = short_names(dict.fromkeys(targets))
    found = []
    for config, target in zip(configs, targets, strict=True):
        keys = report_keys(config)
        kept = {key: value for key, value in keys.items() if key not in ORIGIN}
        del kept["algo._target_"]
        found.append({ALGORITHM: names[target], **kept})
    return found


def _differing(configs: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> list[str]:
    """Keys that differ, the algorithm first; others than that among runs of one algorithm, and
    those of the data set among runs on one."""
    algorithms = list(dict.fromkeys(config[ALGORITHM] for config in configs))
    found = [ALGORITHM] if len(algorithms) > 1 else []
    for algorithm in algorithms:
        alike = [
            (config, task)
            for config, task in zip(configs, tasks, strict=True)
            if config[ALGORITHM] == algorithm
        ]
        for key in dict.fromkeys(key for config, _ in alike for key in config):
            values: dict[str, set[str]] = {}
            for config, task in alike:
                value = json.dumps(config.get(key))  # older runs lack keys that are null by default
                values.setdefault(task if key.startswith(OF_DATA) else "", set()).add(value)
            if any(len(each) > 1 for each in values.values()):
                found.append(key)
    return list(dict.fromkeys(found))


def _ungrouped(
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


def _environments(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
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


def _provenance(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Describe the versions and commits that differ, also within a run that was resumed."""
    values: dict[str, dict[str, None]] = {}
    for part in (part for s in summaries for part in (*s.get("earlier", ()), s)):
        commit = part["git_commit"]
        versions = {**part["versions"], "commit": None if commit is None else commit[:8]}
        for name, version in versions.items():
            values.setdefault(name, {})[shown(version)] = None
    found = [f"{name} ({listed(list(each))})" for name, each in values.items() if len(each) > 1]
    return [f"runs were made with several versions of {listed(found)}"] * bool(found)


def run_names(folders: Sequence[Path]) -> list[str]:
    """Return the folders' names, with those of the folders above while names repeat."""
    paths = [folder.resolve().parts for folder in folders]
    depth = 1
    while len({path[-depth:] for path in paths}) < len({*paths}):
        depth += 1
    return ["/".join(path[-depth:]) for path in paths]


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


def _oddities(
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
