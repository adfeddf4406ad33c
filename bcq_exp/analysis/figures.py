"""A comparison's figures for papers, as SVG and PDF, and its tables as files."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from bcq_exp.analysis import colours, statistics, summary, tables
from bcq_exp.analysis.compared_keys import ALGORITHM
from bcq_exp.analysis.runs import RunTables
from bcq_exp.analysis.summary import ComparedRuns
from bcq_exp.config.naming import short_names
from bcq_exp.files import write_atomically

FORMATS = {"svg": "Date", "pdf": "CreationDate"}  # and their metadata that would differ
STYLE: dict[Any, Any] = {
    "font.size": 9, "pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "bcq_exp",
}  # fmt: skip
WORDS = {"iqm": "IQM", "mean": "mean", "median": "median", "optimality_gap": "optimality gap"}
DASHES: dict[str, Any] = {  # of colours.DASHES, as matplotlib has them
    "solid": "-", "dash": (0, (5, 2)), "dot": (0, (1, 1.5)), "dashdot": "-.",
    "longdash": (0, (9, 2)),
}  # fmt: skip
BANDS_AT_MOST = 5  # more would hide each other
ROWS_AT_MOST = 40  # groups whose intervals are drawn
FEW = "†"
FEW_MEANS = f"{FEW} fewer than {statistics.FEWEST_TO_WIN} runs: the interval is wide or missing"


def write_figures(found: ComparedRuns, folder: Path, show: tables.Show = "mean") -> list[str]:
    """Write every figure that the runs allow, ``table.tex`` and ``aggregates.csv``.

    Of more than ``summary.DRAWN_AT_MOST`` groups, learning curves, profiles and pairs show the
    best ``summary.BEST_FEW``.

    Args:
        show: what the table shows, mean ± std or IQM with its interval.

    Returns:
        The names of the files.

    Raises:
        OSError: if the folder cannot be written.
    """
    groups = Groups(found)
    drawn: dict[str, Figure] = {}
    with rc_context({**STYLE, "text.parse_math": False}):  # a dollar in a name is not TeX
        for draw in (
            learning_curves, aggregates, profiles, improvement, hyperparameters, diagnostics,
        ):  # fmt: skip
            figure = draw(groups)
            if figure is not None:
                drawn[draw.__name__] = figure
        files = rendered(drawn)
    files["table.tex"] = tables.paper_table(found, "tex", show).encode()
    files["aggregates.csv"] = tables.aggregate_csv(found).encode()
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, content)
    return list(files)


def rendered(figures: Mapping[str, Figure]) -> dict[str, bytes]:
    """Render figures by name as files of every format, reproducibly; in the style of the block."""
    files: dict[str, bytes] = {}
    for (name, figure), (form, date) in product(figures.items(), FORMATS.items()):
        file = io.BytesIO()
        figure.savefig(file, format=form, metadata={date: None})
        files[f"{name}.{form}"] = file.getvalue()
    return files


class Groups:
    """The groups of a comparison as figures draw them: the best few, and their styles."""

    def __init__(self, found: ComparedRuns) -> None:
        self.found, self.runs = found, found.runs
        self.all = [aggregate.group for aggregate in found.aggregates]
        self.few = summary.best_few(self.all)
        self.unit = f"{found.which} {found.measure}"
        algorithms = self.runs.values(ALGORITHM) if ALGORITHM in self.runs.keys else []
        by_group = {str(g): str(name) for g, name in zip(found.labels, algorithms, strict=False)}
        self.styles = colours.styles(self.few, by_group)

    def members(self, group: str) -> pd.Index:
        return self.found.labels.index[self.found.labels == group]

    def line(self, group: str) -> dict[str, Any]:
        """Return the style of the group's line."""
        drawn = self.styles[group]
        label = marked(group, self.num_runs(group))
        return {"color": drawn.colour, "ls": DASHES[drawn.dash], "label": label}

    def num_runs(self, group: str) -> int:
        return sum(map(len, self.found.scores[group].values()))

    def notes(self, shown: Sequence[str]) -> str:
        """Notes for readers of a figure of some groups."""
        parts = []
        if len(shown) < len(self.all):
            parts.append(f"the best {len(shown)} of {len(self.all)} groups")
        if any(self.num_runs(group) < statistics.FEWEST_TO_WIN for group in shown):
            parts.append(FEW_MEANS)
        return "; ".join(parts)


def marked(label: str, num_runs: int) -> str:
    """A group's label, with a mark where its runs are too few for a firm interval."""
    return f"{label} {FEW}" if num_runs < statistics.FEWEST_TO_WIN else label


def learning_curves(groups: Groups) -> Figure | None:
    """Mean over each group's runs with a 95% t interval, a panel a data set."""
    runs = groups.runs
    tasks = sorted(runs.runs["dataset"].unique())
    scored = groups.found.measure == "normalized score"
    column = "normalized_score" if scored else "return_mean"
    if not groups.few:
        return None
    behaviours = groups.found.behaviour_scores if scored else runs.runs["behaviour_return"]
    figure, panels = _panels(len(tasks), sharey=scored)
    for axes, task in zip(panels, tasks, strict=True):
        of_task = runs.runs[runs.runs["dataset"] == task]
        for value in behaviours[of_task.index].dropna().unique():
            axes.axhline(value, color=colours.BEHAVIOUR, ls="--", lw=1, label="behaviour")
        for group in groups.few:
            members = groups.members(group).intersection(of_task.index)
            mine = runs.evaluations[runs.evaluations["run"].isin(members)]
            _curve(axes, groups, group, _band(mine, column))
        axes.set_title(task if len(tasks) > 1 else "", size=9)
        axes.set_xlabel("gradient steps")
        axes.set_ylabel(column.replace("_mean", "").replace("_", " "))
        axes.label_outer()
    _legend(figure, panels, groups.notes(groups.few))
    return figure


def diagnostics(groups: Groups) -> Figure | None:
    """Losses and other statistics of training, a panel each; bands as in learning curves."""
    training = groups.runs.training
    columns = [name for name in groups.runs.metrics if training[name].notna().any()]
    if not groups.few or not columns:
        return None
    rows = {g: training[training["run"].isin(groups.members(g))] for g in groups.few}
    figure, panels = _panels(len(columns))
    for axes, column in zip(panels, columns, strict=True):
        for group, mine in rows.items():
            _curve(axes, groups, group, _band(mine, column))
        axes.set(xlabel="gradient steps", ylabel=column.replace("_", " "))
    _legend(figure, panels, groups.notes(groups.few))
    return figure


def _curve(axes: Any, groups: Groups, group: str, band: pd.DataFrame) -> None:
    """Draw a group's mean and interval by step, if there is any."""
    if band.empty:
        return
    axes.plot(band.index, band["mean"], lw=1.4, **groups.line(group))
    colour = groups.styles[group].colour
    few = band["count"].max() < statistics.FEWEST_TO_WIN
    alpha = 0.05 if few else 0.15 if len(groups.few) <= BANDS_AT_MOST else 0.07
    ends = band["low"], band["high"]
    axes.fill_between(band.index, *ends, color=colour, alpha=alpha, lw=0)
    for end in ends if few else ():
        axes.plot(band.index, end, color=colour, lw=0.6, ls=":")


def _band(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Mean and interval by step, where at least half of the runs have a value.

    Runs with values at other steps are interpolated. A gap follows each step at which a run ended
    before the others.
    """
    values = rows.dropna(subset=column).groupby(["step", "run"])[column].mean().unstack()
    of_step = values.interpolate("index", limit_area="inside").T
    band = pd.DataFrame({"mean": of_step.mean(), "std": of_step.std(), "count": of_step.count()})
    band = band[band["count"] >= rows["run"].nunique() / 2]
    margins = {n: statistics.margin(n - 1) for n in band["count"] if n >= statistics.FEWEST}
    reach = band["count"].map(margins) * band["std"] / np.sqrt(band["count"])
    return with_gaps(band.assign(low=band["mean"] - reach, high=band["mean"] + reach), rows, column)


def with_gaps(table: pd.DataFrame, rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Add an empty row to a table by step, after each step at which a run of ``rows`` ended.

    From there on a mean is of fewer runs, and may jump.
    """
    ends = rows.dropna(subset=column).groupby("run")["step"].max().unique()
    gaps = [end + 0.5 for end in ends if table.index.min() <= end < table.index.max()]
    return table.reindex(sorted([*table.index, *gaps]))


def aggregates(groups: Groups) -> Figure | None:
    """IQM, mean, median and optimality gap with 95% intervals, a row a group."""
    shown = groups.found.aggregates[:ROWS_AT_MOST]
    if not shown:
        return None
    names = list(shown[0].estimates)
    figure = Figure(figsize=(1.6 + 1.9 * len(names), 1.0 + 0.2 * len(shown)), layout="constrained")
    panels = list(figure.subplots(1, len(names), squeeze=False, sharey=True).flat)
    rows = np.arange(len(shown))
    for axes, name in zip(panels, names, strict=True):
        for row, a in zip(rows, shown, strict=True):
            value, low, high = a.estimates[name]
            drawn = groups.styles.get(a.group)
            colour = drawn.colour if drawn else colours.BEHAVIOUR
            firm = a.num_runs >= statistics.FEWEST_TO_WIN
            axes.plot([low, high], [row, row], color=colour, lw=1.4 if firm else 0.8)
            axes.plot(value, row, "o", ms=5, color=colour, mfc=colour if firm else "white")
        axes.set(xlabel=WORDS[name], yticks=rows)
        axes.grid(axis="x", lw=0.4, alpha=0.6)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticklabels([marked(a.group, a.num_runs) for a in shown])
    panels[0].set_ylim(len(shown) - 0.5, -0.5)
    notes = groups.notes([a.group for a in shown])
    figure.supxlabel(groups.unit + (f"; {notes}" if notes else ""), size=8)
    return figure


def profiles(groups: Groups) -> Figure | None:
    """Performance profiles: the share of runs above each score."""
    if not groups.few:
        return None
    scores = {group: groups.found.scores[group] for group in groups.few}
    every = np.sort(np.concatenate([own for each in scores.values() for own in each.values()]))
    every = np.concatenate([[every[0] - 0.03 * (np.ptp(every) or 1)], every])  # all are above it
    figure, (axes,) = _panels(1)
    for group in groups.few:
        share, low, high = statistics.performance_profile(scores[group], every)
        axes.step(every, share, where="post", lw=1.4, **groups.line(group))
        firm = groups.num_runs(group) >= statistics.FEWEST_TO_WIN
        if firm and len(groups.few) <= BANDS_AT_MOST:
            colour = groups.styles[group].colour
            axes.fill_between(every, low, high, step="post", color=colour, alpha=0.12, lw=0)
    axes.set(xlabel=groups.unit, ylabel="share of runs above")
    axes.set_ylim(-0.02, 1.02)
    _legend(figure, [axes], groups.notes(groups.few))
    return figure


def improvement(groups: Groups) -> Figure | None:
    """The probability that a run of the row beats one of the column, for every pair of groups."""
    few = groups.few
    if len(few) < 2:
        return None
    pairs = groups.found.improvements(few)
    values = np.array([[np.nan if e is None else e.value for e in row] for row in pairs])
    size = 0.42 * len(few)
    wide = 0.08 * max(map(len, few))
    figure = Figure(figsize=(max(size + wide + 0.6, 3.4), size + 0.9), layout="compressed")
    axes = figure.subplots()
    axes.imshow(
        values, cmap=LinearSegmentedColormap.from_list("", colours.DIVERGING), vmin=0, vmax=1
    )
    for i, j in np.argwhere(~np.isnan(values)):
        dark = abs(values[i, j] - 0.5) > 0.35
        axes.text(
            j, i, f"{values[i, j]:.2f}", ha="center", va="center", size=7,
            color="white" if dark else "black",
        )  # fmt: skip
    numbers = range(1, len(few) + 1)
    axes.set_xticks(range(len(few)), map(str, numbers))
    names = [
        f"{marked(group, groups.num_runs(group))}  {n}"
        for n, group in zip(numbers, few, strict=True)
    ]
    axes.set_yticks(range(len(few)), names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title("P(row > column)", size=9)
    notes = groups.notes(few)
    figure.supxlabel(groups.unit + (f"; {notes}" if notes else ""), size=8)
    return figure


def hyperparameters(groups: Groups) -> Figure | None:
    """How much of the variance each key explains, and the mean at each value of each key."""
    runs = groups.runs
    if not runs.keys or not groups.all:
        return None
    shares = groups.found.importances
    names = short_names([*runs.keys, "seed"])
    figure, panels = _panels(1 + len(runs.keys))
    panels[0].barh([names[key] for key in shares], list(shares.values()), color=colours.NEUTRAL)
    panels[0].invert_yaxis()
    panels[0].set_xlabel("share of variance explained")
    panels[0].xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
    ordered = [key for key in shares if key in runs.keys]
    for axes, key in zip(panels[1:], ordered, strict=True):
        axes.sharey(panels[1])
        _marginal(axes, key, groups.found.marginal(key), runs)
        axes.set(xlabel=names[key], ylabel=groups.unit)
    if any(FEW in text.get_text() for axes in panels for text in axes.get_xticklabels()):
        figure.supxlabel(FEW_MEANS, size=8)
    return figure


def _marginal(axes: Any, key: str, table: pd.DataFrame, runs: RunTables) -> None:
    """The mean and interval at each value of a key; values of a numeric key are joined."""
    own = colours.of_algorithms(table["value"]) if key == ALGORITHM else {}
    if pd.api.types.is_numeric_dtype(summary.key_column(runs, key)):
        axes.plot(range(len(table)), table["mean"], color=colours.NEUTRAL, lw=1, ls=":")
    labels = []
    for x, row in enumerate(table.to_dict("records")):
        colour = own.get(row["value"], colours.NEUTRAL)
        firm = row["num_runs"] >= statistics.FEWEST_TO_WIN
        axes.plot([x, x], [row["low"], row["high"]], color=colour, lw=1.4 if firm else 0.8)
        axes.plot(x, row["mean"], "o", ms=5, color=colour, mfc=colour if firm else "white")
        labels.append(marked(row["value"], row["num_runs"]))
    axes.set_xticks(range(len(table)), labels, rotation=30 if len(" ".join(labels)) > 32 else 0)
    axes.margins(x=0.15)


def _panels(count: int, *, sharey: bool = False) -> tuple[Figure, list[Any]]:
    """Make a figure of ``count`` panels, at most three in a row."""
    columns = min(count, 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(max(3.2 * columns, 4.2) + 0.4, 2.3 * rows + 0.4), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=sharey).flat)
    for axes in panels[count:]:
        axes.remove()
    for axes in panels[:count]:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels[:count]


def labels_of(panels: Iterable[Any]) -> dict[str, Any]:
    """Return each label of the panels once, with one of its lines."""
    found: dict[str, Any] = {}
    for axes in panels:
        lines, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, lines, strict=True))
    return found


def _legend(figure: Figure, panels: Sequence[Any], notes: str) -> None:
    """Draw a legend of all lines below the panels, without shrinking them."""
    labels = labels_of(panels)
    width, height = figure.get_size_inches()
    columns = max(1, int(width / (0.07 * max(map(len, labels), default=1) + 0.55)))
    rows = -(-len(labels) // columns) + bool(notes)
    figure.set_size_inches(width, height + 0.2 * rows + 0.1)
    figure.legend(
        labels.values(), labels, loc="outside lower center", ncols=columns, frameon=False,
        title=notes or None, title_fontsize=8, fontsize=8,
    )  # fmt: skip
