"""``python -m bcq_exp.wandb_workspace project=...``: a saved W&B workspace that compares runs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from bcq_exp.errors import UserError, first_line

LOSSES = ("actor_loss", "critic1_loss", "critic2_loss", "vae_loss")
DIAGNOSTICS = (
    "q1_mean",
    "q2_mean",
    "target_q_mean",
    "recon_loss",
    "kl_loss",
    "perturbation_abs_mean",
    "latent_clip_fraction",
)
DEFAULT_KEYS = ("algo.lmbda", "algo.tau", "algo.num_sampled_action", "actor.phi")
SCORE = "eval/return_mean"
OPTIONS = ("project", "entity", "name", "keys", "runs")


def main(arguments: Sequence[str] | None = None) -> None:
    """Save the workspace and print its address, or with ``--dry-run`` print what it is."""
    parser = argparse.ArgumentParser(
        "python -m bcq_exp.wandb_workspace",
        description=__doc__,
        epilog="keys=algo.lmbda,algo.tau are grouped by; runs=multirun/NAME finds them instead",
    )
    parser.add_argument("options", nargs="+", help=f"{', '.join(f'{o}=...' for o in OPTIONS)}")
    parser.add_argument("--dry-run", action="store_true", help="print the workspace, save nothing")
    parsed = parser.parse_args(arguments)
    try:
        options = _options(parsed.options)
        space = workspace(
            project=options["project"],
            entity=options.get("entity", ""),
            name=options.get("name", "BCQ"),
            keys=_keys(options),
        )
        if parsed.dry_run:
            print(json.dumps(specification(space), indent=2))
        else:
            print(_save(space))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def workspace(project: str, entity: str, name: str, keys: Sequence[str]) -> Any:
    """The workspace as an object: curves, hyperparameters, runs, losses, diagnostics.

    Raises:
        UserError: if wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as spaces
    except ImportError:
        raise UserError(
            "wandb-workspaces is not installed; pip install 'bcq_exp[workspace]'"
        ) from None

    def curve(metric: str) -> Any:
        title = metric.partition("/")[2].replace("_", " ")
        return panels.LinePlot(
            title=title, x="step", y=[metric], groupby_aggfunc="mean", groupby_rangefunc="stddev"
        )

    columns = [
        panels.ParallelCoordinatesPlotColumn(metric=panels.Config(key), display_name=key)
        for key in keys
    ]
    score = panels.ParallelCoordinatesPlotColumn(metric=panels.SummaryMetric(f"{SCORE}.last"))
    hyperparameters: list[Any] = [
        panels.ParallelCoordinatesPlot(title="hyperparameters", columns=[*columns, score]),
        panels.ParameterImportancePlot(with_respect_to=f"{SCORE}.last"),
        *(
            panels.ScatterPlot(
                title=key, x=panels.Config(key), y=panels.SummaryMetric(f"{SCORE}.last")
            )
            for key in keys
        ),
    ]
    evaluation = [curve(f"eval/{n}") for n in ("return_mean", "normalized_score", "length_mean")]
    sections = [
        spaces.Section("Evaluation", panels=evaluation, is_open=True),
        spaces.Section("Hyperparameters", panels=hyperparameters, is_open=True),
        spaces.Section("Runs compared", panels=[panels.RunComparer(diff_only=True)], is_open=True),
        spaces.Section("Losses", panels=[curve(f"train/{n}") for n in LOSSES]),
        spaces.Section("BCQ diagnostics", panels=[curve(f"train/{n}") for n in DIAGNOSTICS]),
    ]
    return spaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=sections,
        settings=spaces.WorkspaceSettings(x_axis="step"),
        runset_settings=spaces.RunsetSettings(groupby=[spaces.Config(key) for key in keys]),
    )


def specification(space: Any) -> dict[str, Any]:
    """What W&B's server would be sent, as plain values."""
    return json.loads(space._to_model().model_dump_json(by_alias=True, exclude_none=True))


def _options(given: Sequence[str]) -> dict[str, str]:
    options = {}
    for item in given:
        key, separator, value = item.partition("=")
        if not separator or key not in OPTIONS or not value:
            raise UserError(f"{item}: give {', '.join(f'{o}=...' for o in OPTIONS)}")
        options[key] = value
    if "project" not in options:
        raise UserError("project=...: give the W&B project")
    return options


def _keys(options: dict[str, str]) -> tuple[str, ...]:
    if "keys" in options:
        return tuple(options["keys"].split(","))
    if "runs" in options:
        from bcq_exp.analysis import load_runs

        return load_runs(options["runs"]).keys
    return DEFAULT_KEYS


def _save(space: Any) -> str:
    try:
        return space.save().url
    except Exception as error:  # not logged in, no network, no such project
        raise UserError(f"W&B refused the workspace: {first_line(error)}") from error


if __name__ == "__main__":
    main()
