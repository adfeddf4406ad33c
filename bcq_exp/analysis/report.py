"""The report page of a comparison: its data as JSON, and the page around it."""

from __future__ import annotations

import base64
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from bcq_exp.analysis import colours, statistics, summary
from bcq_exp.analysis.compared_keys import ALGORITHM
from bcq_exp.analysis.json_values import json_values
from bcq_exp.analysis.runs import RunTables
from bcq_exp.analysis.summary import ComparedRuns
from bcq_exp.config.naming import short_names
from bcq_exp.files import write_atomically
from bcq_exp.formatting import shown
from bcq_exp.training.record import COMPARED

POINTS_AT_MOST = 100  # longer curves show means of equal parts; aggregates use all points
_PAGE = Path(__file__).parent / "page"
_SCRIPTS = ("groups.js", "statistics.js", "page.js")


def write_report(
    found: ComparedRuns,
    path: Path,
    refresh: float | None = None,
    lead: str = "",
    selection: Mapping[str, Any] | None = None,
) -> None:
    """Write the page to ``path``.

    Args:
        refresh: seconds after which the page reloads itself; 0 for never.
        lead: HTML at the beginning of the page.
        selection: the content of the file of ``bcq_exp select``.
    """
    from plotly.offline import get_plotlyjs

    content = {**page_data(found, path.parent), "selection": json_values(selection, digits=6)}
    data = json.dumps(content, separators=(",", ":"), allow_nan=False)
    data = data.replace("<", r"\u003c")  # no name may end, or open, a script inside the script
    names = ("page.html", "page.css", *_SCRIPTS)
    parts = {name: (_PAGE / name).read_text("utf-8") for name in names}
    reload = f'<meta http-equiv="refresh" content="{refresh:g}">' if refresh else ""
    contents = {
        "<!--reload-->": reload,
        "<!--lead-->": lead,
        "/*css*/": parts["page.css"],
        "/*plotly*/": get_plotlyjs(),
        "/*data*/": data,
        "/*js*/": "\n".join(parts[name] for name in _SCRIPTS),
    }
    marks = "|".join(map(re.escape, contents))  # at once: a text may hold another's mark
    page = re.sub(marks, lambda mark: contents[mark.group()], parts["page.html"])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page.encode())


def page_data(found: ComparedRuns, folder: Path) -> dict[str, Any]:
    """Return the data of the page as JSON values; links are relative to ``folder``."""
    runs = found.runs
    aggregates = {
        which: (found if which == found.which else ComparedRuns(runs, which)).aggregates
        for which in ("last", "best")
    }
    columns = {key: summary.key_column(runs, key) for key in runs.keys}
    order = list(dict.fromkeys([*(a.group for a in found.aggregates), *found.scores]))
    counts = {aggregate.num_runs for each in aggregates.values() for aggregate in each}
    return json_values(
        {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "measure": found.measure,
            "intervals": statistics.INTERVALS,
            "margins": [  # standard errors to either side of the mean, by the number of curves
                statistics.margin(count - 1) if count >= statistics.FEWEST else None
                for count in range(len(runs.runs) + 1)
            ],
            "which": found.which,
            "keys": list(runs.keys),
            "texts": {key: summary.key_texts(runs, key).tolist() for key in runs.keys},
            "short": short_names([*runs.keys, "seed", "dataset"]),
            "notes": found.notes,
            "groups": order,
            "runs": [
                {
                    **_run(runs, int(index), folder, str(found.labels[index]), columns),
                    "behaviour_score": found.behaviour_scores[index],
                }
                for index in runs.runs.index
            ],
            "aggregates": {
                which: [
                    {"group": a.group, "num_runs": a.num_runs, "std": a.std, **a.estimates}
                    for a in of_which
                ]
                for which, of_which in aggregates.items()
            },
            "best_few": summary.best_few(order),
            "few": statistics.FEWEST_TO_WIN,
            "normal_margin": statistics.NORMAL_MARGIN,
            "share_intervals": {
                count: statistics.share_interval(np.arange(count + 1), count) for count in counts
            },
            **_colours(columns),
            "marginals": {key: found.marginal(key).to_dict("list") for key in runs.keys},
            "importance": found.importances,
            "findings": [vars(finding) for finding in found.findings],
            "evaluation": _curves(runs.evaluations, runs, COMPARED, None),
            "training": _curves(runs.training, runs, runs.metrics, POINTS_AT_MOST),
            "reproduction": _reproduction(runs),
        },
        digits=9,
    )


def _run(
    runs: RunTables, index: int, folder: Path, group: str, columns: Mapping[str, pd.Series]
) -> dict[str, Any]:
    row = runs.runs.loc[index]
    names = (
        "name", "status", "reason", "step", "num_steps", "seed", "dataset", "last_return",
        "best_return", "last_score", "best_score", "behaviour_return", "steps_per_second",
        "command",
    )  # fmt: skip
    values = {key: column[index] for key, column in columns.items()}
    return {
        **{name: row[name] for name in names},
        # with ./, as a folder may be named javascript:
        "href": quote(f"./{os.path.relpath(row['folder'], folder)}", safe="/=,+@"),
        "group": group,
        "values": values,
    }


def _colours(columns: Mapping[str, pd.Series]) -> dict[str, Any]:
    """Colours, and the quarters of numeric keys that have more values than there are colours."""
    names = [str(name) for name in columns[ALGORITHM].unique()] if ALGORITHM in columns else []
    return {
        "palette": colours.PALETTE,
        "dashes": colours.DASHES,
        "shades": colours.SHADES,
        "algorithms": colours.of_algorithms(sorted(names)),
        "behaviour_colour": colours.BEHAVIOUR,
        "neutral_colour": colours.NEUTRAL,
        "diverging": colours.DIVERGING,
        "quarters": {
            key: summary.quarters(column)
            for key, column in columns.items()
            if pd.api.types.is_numeric_dtype(column) and column.nunique() > len(colours.PALETTE)
        },
    }


def _curves(
    table: pd.DataFrame, runs: RunTables, columns: tuple[str, ...], points: int | None
) -> list[dict[str, str]]:
    """Each run's curves: step, wall_time and the columns, at most ``points`` long, packed."""
    by_run = dict(list(table.groupby("run")))
    curves: list[dict[str, str]] = []
    for index in runs.runs.index:
        part = by_run.get(index)
        if part is None:
            curves.append({})
            continue
        own = [c for c in columns if c in part and part[c].notna().any()]  # by its algorithm
        names = ["step", "wall_time", *own]
        values = part[names].to_numpy(np.float64)
        if points is not None and len(values) > points:
            parts = np.arange(len(values)) * points // len(values)
            values = pd.DataFrame(values).groupby(parts).mean().to_numpy()  # NaN is ignored
        curves.append({name: _packed(column) for name, column in zip(names, values.T, strict=True)})
    return curves


def _packed(values: np.ndarray) -> str:
    """Encode numbers (N,) as base64 of little-endian float32: half the size of digits."""
    with np.errstate(over="ignore"):
        return base64.b64encode(values.astype("<f4").tobytes()).decode()


def _reproduction(runs: RunTables) -> dict[str, Any]:
    """Versions, commits, data: each with its values and how many runs had them."""
    table = runs.runs
    versions: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for of_run in table["versions"]:
        for name, version in of_run.items():
            versions[name][shown(version)] += 1
    data = table.groupby(["dataset", "dataset_hash"]).size()
    return {
        "versions": versions,
        "commits": {
            shown(k): int(v) for k, v in table["git_commit"].value_counts(dropna=False).items()
        },
        "data": [[*key, int(count)] for key, count in zip(data.index.tolist(), data, strict=True)],
    }
