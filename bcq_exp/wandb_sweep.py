"""``bcq_exp wandb sweep``: print a W&B sweep, or create it for agents to run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bcq_exp.cli.arguments import Parser, path, text
from bcq_exp.cli.command import command
from bcq_exp.cli.schemas import conf_folder
from bcq_exp.errors import UserError, first_line
from bcq_exp.ranges import WANDB_ENTITY, WANDB_PROJECT


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Print the sweep's file with the agents' command in it, or create the sweep."""
    parser = Parser(
        "bcq_exp wandb sweep",
        description="Prints a W&B sweep with the command of its agents, or creates it.",
    )
    parser.add_argument("overrides", nargs="*", help="overrides of every run, such as dataset=...")
    parser.add_argument("--file", type=path, help="the sweep's file (conf/wandb_sweep.yaml)")
    parser.add_argument(
        "--project", type=text(WANDB_PROJECT), default="bcq_exp", help="the W&B project (bcq_exp)"
    )
    parser.add_argument("--entity", type=text(WANDB_ENTITY), help="the W&B user or team")
    parser.add_argument(
        "--create", action="store_true", help="create it and print the command of an agent"
    )
    options = parser.parse_args(arguments)
    file = options.file or conf_folder() / "wandb_sweep.yaml"
    spec = sweep_spec(file, [f"logger.project={options.project}", *options.overrides])
    if options.create:
        print(_create(spec, options.project, options.entity))
    else:
        print(yaml.safe_dump(spec, sort_keys=False), end="")


def sweep_spec(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Return a sweep in W&B's form: the file's, run by ``bcq_exp train`` with these overrides.

    Raises:
        UserError: if the file is missing or has no sweep, or for a key or value that ``bcq_exp
            train`` refuses.
    """
    try:
        spec = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"file={path}: {first_line(error)}") from error
    if not isinstance(spec, dict) or not isinstance(spec.get("parameters"), dict):
        raise UserError(f"file={path}: not a W&B sweep; it needs a method, a metric and parameters")
    own = ["logger.mode=online", *overrides]
    for trial in _trials(path, spec["parameters"]):
        _check_overrides([*trial, *own])
    words = ["${env}", "python", "-m", "${program}", *own]
    return {"program": "bcq_exp", **spec, "command": [*words, "${args_no_hyphens}"]}


def _trials(path: Path, parameters: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield overrides of a few trials, in which each value occurs, and each end of a range."""
    words = {key: _overrides(path, key, node) for key, node in parameters.items()}
    given = [each for each in words.values() if each]
    for number in range(max(map(len, given), default=1)):
        yield [each[min(number, len(each) - 1)] for each in given]


def _overrides(path: Path, key: str, node: Any) -> list[str]:
    """An override for each value of a parameter, or for both ends of its range."""
    found = node if isinstance(node, dict) else {}
    values = [found["value"]] if "value" in found else found.get("values", [])
    if not isinstance(values, list):
        raise UserError(f"file={path}: parameters: {key}: values={values}: must be a list")
    if not str(found.get("distribution")).endswith("log_uniform"):  # whose ends are exponents
        values = [*values, *(found[end] for end in ("min", "max") if end in found)]
    written = (v if isinstance(v, str) else json.dumps(v, default=str) for v in values)  # dates
    return [f"{key}={word}" for word in written]


def _check_overrides(overrides: Sequence[str]) -> None:
    """Compose and check a run, as ``bcq_exp train`` does.

    Raises:
        UserError: as that does; for a key of several values as well.
    """
    from hydra import compose, initialize_config_dir

    from bcq_exp.cli import entry
    from bcq_exp.cli.explain import explained
    from bcq_exp.config.checking import check

    entry.register()
    entry.check_single(overrides, "the sweep's file lists the values of swept keys")
    composing = initialize_config_dir(str(conf_folder()), version_base="1.3")
    with explained(overrides, is_sweep=False), composing:
        cfg = compose("config", list(overrides))
    check(cfg)


def _create(spec: dict[str, Any], project: str, entity: str | None) -> str:
    import wandb

    try:
        sweep_id = wandb.sweep(spec, project=project, entity=entity)
    except Exception as error:  # not logged in, no network, no such entity
        raise UserError(f"W&B refused the sweep: {first_line(error)}") from error
    owner = f"{entity}/" if entity else ""
    return f"to run its trials, on any machine: wandb agent {owner}{project}/{sweep_id}"


if __name__ == "__main__":
    main()
