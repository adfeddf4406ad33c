"""``python -m bcq_exp.paper budget=small``: section 6 of the BCQ paper, from agents to claims."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from bcq_exp.cli.child import run, run_all
from bcq_exp.cli.entry import entry
from bcq_exp.errors import RunStopped

if TYPE_CHECKING:
    from bcq_exp.paper.plan import PaperPlan


@entry("paper")
def main(cfg: DictConfig) -> None:
    from bcq_exp.paper import checks
    from bcq_exp.paper.plan import make_plan

    checks.check_budget(cfg)
    plan = make_plan(cfg, _launcher(), _compose)
    checks.check_disk(plan)
    from bcq_exp.paper.estimate import say_how_long

    say_how_long(cfg, plan)
    if not cfg.plan_only:
        _do(plan, cfg.at_once)
        _report(plan)


def _do(plan: PaperPlan, at_once: int) -> None:
    """Everything that is not done yet."""
    from bcq_exp.paper.checks import missing_data

    run(plan.agents.command)
    recordings = [dataset.command for dataset in missing_data(plan)]
    _stop_at(run_all(recordings, os.cpu_count() or 1, silent=True))
    statuses = run_all([sweep.command for sweep in plan.sweeps], at_once)
    _stop_at([status for status in statuses if status != 1])  # 1: runs of it failed, others not


def _report(plan: PaperPlan) -> None:
    """What came of it.

    Raises:
        RunStopped: if runs failed; the report is of the others.
    """
    from bcq_exp.paper import page
    from bcq_exp.paper.claims import decide
    from bcq_exp.paper.results import Results

    results = Results(plan)
    decided = decide(results)
    page.write(results, decided, plan.output)
    print(page.claims_markdown(decided), end="")
    print(plan.output.resolve() / "index.html")
    if failed := results.runs["reason"].dropna().tolist():
        raise RunStopped(f"{len(failed)} of {plan.num_learners} runs failed: {failed[0]}", 1)


def _stop_at(statuses: Sequence[int]) -> None:
    """End where a command did, which has said why."""
    if status := max(statuses, default=0):
        raise SystemExit(status)


def _launcher() -> tuple[str, ...]:
    """What chooses and sets up the launcher of this command, for its sweeps."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    given = [o for o in hydra.overrides.hydra if o.lstrip("+~").startswith("hydra.launcher.")]
    return (f"hydra/launcher={hydra.runtime.choices['hydra/launcher']}", *given)


def _compose(name: str, overrides: Sequence[str]) -> DictConfig:
    from hydra import compose

    return compose(name, list(overrides))


if __name__ == "__main__":
    main()
