"""``bcq_exp wandb workspace project=...``: a saved W&B workspace that compares runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bcq_exp.cli.arguments import Parser, place, text
from bcq_exp.cli.command import command
from bcq_exp.errors import UserError, first_line
from bcq_exp.extras import require
from bcq_exp.internals import workspace_values
from bcq_exp.ranges import WANDB_ENTITY, WANDB_PROJECT
from bcq_exp.training.record import COMPARED, RunRecord

DEFAULT_KEYS = ("algo.lmbda", "algo.tau", "algo.num_sampled_action", "actor.phi")
SCORE = "eval/return_mean"


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Save the workspace and print its address, or with ``dry_run=true`` print its content."""
    parser = Parser(
        "bcq_exp wandb workspace", description="Saves a W&B workspace that compares runs."
    )
    parser.add_argument(
        "runs", nargs="*", type=place, help="folders of runs or sweeps, whose swept keys are used"
    )
    parser.add_argument("--project", type=text(WANDB_PROJECT), help="the W&B project (required)")
    parser.add_argument("--entity", type=text(WANDB_ENTITY), help="the W&B user or team")
    parser.add_argument("--name", default="bcq_exp", help="name of the workspace (bcq_exp)")
    parser.add_argument("--keys", metavar="KEY,...", help="group by these keys instead")
    parser.add_argument("--dry-run", action="store_true", help="print the workspace, save nothing")
    options = parser.parse_args(arguments)
    if not options.project:
        raise UserError("project=...: give the W&B project")
    content = _of_runs(options.runs) if options.runs else _of_bcq()
    if options.keys:
        content = content._replace(keys=options.keys.split(","))
    space = workspace(options.project, options.entity or "", options.name, content)
    print(json.dumps(workspace_values(space), indent=2) if options.dry_run else _save(space))


class Content(NamedTuple):
    """What a workspace shows.

    Args:
        keys: configuration keys to group and compare by.
        losses, diagnostics: columns of ``train.csv``.
        groups: W&B's groups of the runs; empty shows all runs of the project.
    """

    keys: Sequence[str]
    losses: Sequence[str]
    diagnostics: Sequence[str]
    groups: Sequence[str] = ()


def workspace(project: str, entity: str, name: str, content: Content) -> Any:
    """Make the workspace: curves, hyperparameters, runs, losses, diagnostics.

    Raises:
        UserError: if wandb-workspaces is not installed.
    """
    require("wandb_workspaces", "workspace", "bcq_exp wandb workspace")
    import wandb_workspaces.reports.v2 as panels
    import wandb_workspaces.workspaces as spaces

    def curve(metric: str) -> Any:
        title = metric.partition("/")[2].replace("_", " ")
        return panels.LinePlot(
            title=title, x="step", y=[metric], groupby_aggfunc="mean", groupby_rangefunc="stddev"
        )

    columns = [
        panels.ParallelCoordinatesPlotColumn(metric=panels.Config(key), display_name=key)
        for key in content.keys
    ]
    score = panels.ParallelCoordinatesPlotColumn(metric=panels.SummaryMetric(f"{SCORE}.last"))
    hyperparameters: list[Any] = [
        panels.ParallelCoordinatesPlot(title="hyperparameters", columns=[*columns, score]),
        panels.ParameterImportancePlot(with_respect_to=f"{SCORE}.last"),
        *(
            panels.ScatterPlot(
                title=key, x=panels.Config(key), y=panels.SummaryMetric(f"{SCORE}.last")
            )
            for key in content.keys
        ),
    ]
    evaluation = [curve(f"eval/{name}") for name in COMPARED]
    sections = [
        spaces.Section("Evaluation", panels=evaluation, is_open=True),
        spaces.Section("Hyperparameters", panels=hyperparameters, is_open=True),
        spaces.Section("Runs compared", panels=[panels.RunComparer(diff_only=True)], is_open=True),
        spaces.Section("Losses", panels=[curve(f"train/{n}") for n in content.losses]),
        spaces.Section("Diagnostics", panels=[curve(f"train/{n}") for n in content.diagnostics]),
    ]
    return spaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=sections,
        settings=spaces.WorkspaceSettings(x_axis="step"),
        runset_settings=spaces.RunsetSettings(
            groupby=[spaces.Config(key) for key in content.keys],
            filters=[spaces.Metric("Group").isin([*content.groups])] if content.groups else [],
        ),
    )


def _of_runs(places: Sequence[str]) -> Content:
    from bcq_exp.analysis import load_runs
    from bcq_exp.analysis.compared_keys import ALGORITHM
    from bcq_exp.training.tracking import group_of

    runs = load_runs(*places)
    losses = list(dict.fromkeys(name for names in runs.runs["losses"] for name in names))
    folders = map(Path, runs.runs["folder"])
    groups = [group_of(folder, RunRecord(folder).required_summary()) for folder in folders]
    return Content(
        keys=[f"{key}._target_" if key == ALGORITHM else key for key in runs.keys],
        losses=losses,
        diagnostics=[name for name in runs.metrics if name not in losses],
        groups=list(dict.fromkeys(groups)),
    )


def _of_bcq() -> Content:
    from bcq_exp.algorithm.bcq import BCQ

    return Content(DEFAULT_KEYS, BCQ.losses(), BCQ.diagnostics)


def _save(space: Any) -> str:
    try:
        return space.save().url
    except Exception as error:  # not logged in, no network, no such project
        raise UserError(f"W&B refused the workspace: {first_line(error)}") from error


if __name__ == "__main__":
    main()
