"""``bcq_exp select multirun/NAME``: policies ranked from data alone."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bcq_exp.cli import tables
from bcq_exp.cli.arguments import Parser, home, number, path, place
from bcq_exp.cli.command import command
from bcq_exp.config.fqe_settings import FQESettings
from bcq_exp.errors import UserError
from bcq_exp.formatting import and_more, counted
from bcq_exp.ranges import COUNT, EPSILON, GAMMA, POSITIVE, SEED, TAU, Range

if TYPE_CHECKING:
    from rich.table import Table

    from bcq_exp.selection.bandit import BudgetCurve
    from bcq_exp.selection.estimates import Selection
    from bcq_exp.selection.ranking import Measured

EPISODES_SHOWN = (0, 1, 2, 5, 10, 20, 50, 100)
MOST_ROWS = 40
ESTIMATORS = {"fqe": "fitted Q", "dr": "doubly robust", "pdwis": "PDWIS", "wis": "WIS"}
POLICY_COLUMNS = (
    "step",
    "value ± interval",
    "better than behaviour",
    "own critic",
    "TD error",
    "supported actions",
    "discounted return",
    "return",
)
NUMBERS: dict[str, tuple[type, Range, str]] = {
    "num_steps": (int, COUNT, "gradient steps of fitted Q evaluation"),
    "batch_size": (int, COUNT, "transitions per step"),
    "num_members": (int, COUNT, "critics per policy, whose spread gives the interval"),
    "lr": (float, POSITIVE, "learning rate"),
    "gamma": (float, GAMMA, "discount of the values, for all runs"),
    "tau": (float, TAU, "update rate of target critics; by default as num_steps needs"),
    "seed": (int, SEED, "random seed of weights, episodes and batches"),
    "horizon": (
        int,
        COUNT,
        "steps that a value covers, such as the time limit; infinite if absent",
    ),
    "epsilon": (
        float,
        EPSILON,
        "share of random actions in a discrete policy's importance sampling",
    ),
}


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Estimate, print the table, write the files."""
    parser = Parser(
        "bcq_exp select",
        description="Ranks policies by fitted Q evaluation on recorded data, without the "
        "environment.",
    )
    parser.add_argument("runs", nargs="+", type=place, help="folders of runs or sweeps, or globs")
    parser.add_argument(
        "--output",
        type=path,
        metavar="DIR",
        help="folder of the results (for one run or sweep its ope/, else ope/ here)",
    )
    parser.add_argument(
        "--trust", action="store_true", help="load custom code that the runs' folders name"
    )
    for name, (kind, allowed, words) in NUMBERS.items():
        option = f"--{name.replace('_', '-')}"
        default = getattr(FQESettings, name)
        default = FQESettings().target_tau if name == "tau" else default
        usual = words if default is None else f"{words} ({default:g})"
        parser.add_argument(option, type=number(kind, allowed), metavar="N", help=usual)
    sizes = ",".join(map(str, FQESettings.hidden_sizes))
    parser.add_argument(
        "--hidden-sizes",
        nargs="+",
        type=number(int, COUNT),
        metavar="N",
        help=f"hidden layers of a critic ([{sizes}])",
    )
    parser.add_argument(
        "--return-range",
        nargs=2,
        type=number(float, Range()),
        metavar=("LOW", "HIGH"),
        help="known bounds of a policy's value (by default, those that recorded rewards imply)",
    )
    options = parser.parse_args(arguments)
    if options.return_range and options.return_range[0] >= options.return_range[1]:
        given = ",".join(map(str, options.return_range))
        raise UserError(f"return_range=[{given}]: the first number must be below the second")
    _select(options)


def _select(options: argparse.Namespace) -> None:
    from bcq_exp import locks
    from bcq_exp.analysis.run_folders import run_folders
    from bcq_exp.cli import schemas
    from bcq_exp.engine.memory import enough_memory
    from bcq_exp.files import written
    from bcq_exp.selection.candidates import load_candidates
    from bcq_exp.selection.estimates import select
    from bcq_exp.selection.selection_files import CRITICS, FOLDER, POLICIES, write
    from bcq_exp.training.folders import LOCK
    from bcq_exp.training.progress import progress
    from bcq_exp.training.record import RunRecord
    from bcq_exp.training.wandb_export import add_estimates

    schemas.register()
    given = {name: getattr(options, name) for name in NUMBERS}
    given["return_range"] = options.return_range and tuple(options.return_range)
    given["hidden_sizes"] = options.hidden_sizes and tuple(options.hidden_sizes)
    settings = FQESettings(**{name: value for name, value in given.items() if value is not None})
    folder = options.output or home(options.runs) / FOLDER
    folders = run_folders(*options.runs)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output={folder}: must be a folder, not a file")
    candidates, evidence = load_candidates(folders, trusted=options.trust)
    for each in folders:
        RunRecord(each).estimates()  # read before the work, to find damage early
    with written(folder):
        folder.mkdir(parents=True, exist_ok=True)
    busy = f"{folder}: another `bcq_exp select` is writing there; wait for it, or give output=DIR"
    with locks.hold(folder / LOCK, busy):
        with (
            enough_memory("select fewer runs at a time, or reduce batch_size"),
            progress(0, settings.num_steps, _policies(len(candidates))) as shown,
        ):
            selection = select(candidates, evidence, settings, folder / CRITICS, shown.update)
        write(selection, settings, folder)
        add_estimates(selection.estimates)
    _print(selection, settings)
    print(f"{(folder / POLICIES).resolve()}")


def _print(selection: Selection, settings: FQESettings) -> None:
    behaviour: dict[Any, Any] = {
        "run": "behaviour policy, as recorded",
        "step": "",
        **selection.behaviour,
    }
    num_policies = len(selection.policies)
    rows: list[dict[Any, Any]] = selection.policies.head(MOST_ROWS).to_dict("records")
    steps = "" if settings.horizon is None else f", {counted(settings.horizon, 'step')}"
    title = f"{_policies(num_policies)} by fitted Q evaluation, gamma {settings.gamma:g}{steps}"
    console = tables.console()
    console.print(_policy_table(title, [behaviour, *rows]))
    if num_policies > MOST_ROWS:
        print(and_more(num_policies - MOST_ROWS))
    if selection.calibration is not None:
        console.print(_estimator_table([behaviour, *rows]))
    if selection.quality:
        console.print(_quality_table(selection.quality, num_policies))
    if selection.budget:
        console.print(_budget_table(selection.budget))
    for note in selection.notes:
        console.print(f"note: {note}")


def _policy_table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    table = tables.table(title, "run", POLICY_COLUMNS)
    for row in rows:
        table.add_row(
            row["run"],
            str(row["step"]),
            _estimate(row, "fqe"),
            row.get("better", ""),
            *(_number(row.get(name)) for name in ("critic_value", "td_error")),
            _share(row["support"]),
            *(_number(row[name]) for name in ("discounted_return", "return_mean")),
        )
    return table


def _estimator_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    others = (*ESTIMATORS.values(), "effective episodes")
    table = tables.table("by several estimators ± interval", "run", others)
    for row in rows:
        found = (_estimate(row, name) for name in ESTIMATORS)
        table.add_row(row["run"], *found, _number(row["ess"]))
    return table


def _quality_table(quality: Mapping[str, Mapping[str, Measured]], num_policies: int) -> Table:
    title = "rankings compared with returns [95% interval]"
    table = tables.table(title, "ranked by", next(iter(quality.values())))
    for estimator, measures in quality.items():
        count = measures["spearman"].num_policies
        of = f", of {count}" if count < num_policies else ""
        table.add_row(estimator + of, *(_measured(m) for m in measures.values()))
    return table


def _budget_table(budget: Mapping[str, BudgetCurve]) -> Table:
    episodes = [n for n in EPISODES_SHOWN if n <= len(budget["uniform"].episodes)]
    title = "return of the policy chosen after N evaluation episodes"
    table = tables.table(title, "started", map(str, episodes))
    for start, curve in budget.items():
        at = dict(zip(curve.episodes.tolist(), curve.returns.tolist(), strict=True))
        table.add_row(start, *(_number(at.get(n)) for n in episodes))
    return table


def _policies(count: int) -> str:
    return counted(count, "policy", "policies")


def _measured(found: Measured) -> str:
    if found.value != found.value:
        return ""
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _estimate(row: Mapping[str, Any], name: str) -> str:
    value, high = row[name], row[f"{name}_high"]
    reach = "" if value is None or high is None else _number(high - value, before=" ± ")
    return _number(value) + reach


def _share(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.0%}"


def _number(value: float | None, before: str = "") -> str:
    if value is None or value != value:
        return ""
    return f"{before}{value:.{1 if abs(value) >= 10 else 2}f}"  # rewards may be 0 or 1


if __name__ == "__main__":
    main()
