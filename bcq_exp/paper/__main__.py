"""``bcq_exp paper budget=small``: section 6 of the BCQ paper, from agents to claims."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from bcq_exp.cli.child import run_all
from bcq_exp.cli.entry import entry
from bcq_exp.errors import RunStopped
from bcq_exp.extras import require
from bcq_exp.formatting import counted

if TYPE_CHECKING:
    from bcq_exp.paper.experiments import PaperPlan


@entry("paper", plan="plan_only=true", sweeps=False)
def main(cfg: DictConfig) -> None:
    for module in ("joblib", "matplotlib"):  # which draws the figures, hours later
        require(module, "paper", "bcq_exp paper")
    from bcq_exp.paper import prechecks
    from bcq_exp.paper.experiments import make_plan

    prechecks.check_budget(cfg)
    compose = cache(_compose)
    plan = make_plan(cfg, _launcher(), compose)
    prechecks.check_runs(plan, compose)
    prechecks.check_disk(plan)
    from bcq_exp.paper.duration import log_how_long

    log_how_long(cfg, plan, compose)
    if not cfg.plan_only:
        _do(plan, cfg.at_once)
        _report(plan)


def _do(plan: PaperPlan, at_once: int) -> None:
    """Do everything that is left; a completed run needs neither its data nor its checkpoint."""
    from joblib import cpu_count

    from bcq_exp.paper.prechecks import missing_data
    from bcq_exp.training.record import RunRecord

    _stop_at_mistakes(run_all([plan.agents.command]))
    trained = {
        folder
        for folder in plan.agents.folders.values()
        if (RunRecord(folder).summary() or {}).get("status") == "completed"
    }
    recordings = [dataset.command for dataset in missing_data(plan) if dataset.agent in trained]
    _stop_at_mistakes(run_all(recordings, cpu_count(), silent=True))
    # a failed agent has no data set
    missing = missing_data(plan)
    there = {(d.setting, d.env) for d in plan.datasets_left if d not in missing}
    sweeps = [sweep for sweep in plan.sweeps_left if (sweep.setting, sweep.env) in there]
    _stop_at_mistakes(run_all([sweep.command for sweep in sweeps], at_once))


def _report(plan: PaperPlan) -> None:
    """Write the report.

    Raises:
        RunStopped: if runs failed; the report has the others.
    """
    from bcq_exp.paper import page
    from bcq_exp.paper.claims import decide
    from bcq_exp.paper.run_tables import Results

    results = Results(plan)
    decided = decide(results)
    page.write(results, decided, plan.output)
    print(page.claims_markdown(decided), end="")
    print(f"report: {plan.output.resolve() / 'index.html'}")
    runs = results.runs
    if undone := plan.num_learners - int((runs["status"] == "completed").sum()):
        reasons = [*runs["reason"].dropna(), "see above"]
        runs_in_all = counted(plan.num_learners, "run")
        raise RunStopped(f"{undone} of {runs_in_all} did not complete: {reasons[0]}", 1)


def _stop_at_mistakes(statuses: Sequence[int]) -> None:
    """Exit with a command that refused or was stopped; continue if only some runs failed."""
    if status := max((s for s in statuses if s != 1), default=0):
        raise SystemExit(status)


def _launcher() -> tuple[str, ...]:
    """Return the overrides that give this command's launcher to its sweeps."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    given = [o for o in hydra.overrides.hydra if o.lstrip("+~").startswith("hydra.launcher.")]
    return (f"hydra/launcher={hydra.runtime.choices['hydra/launcher']}", *given)


def _compose(name: str, overrides: tuple[str, ...]) -> DictConfig:
    """Compose the configuration of another bcq_exp command."""
    from hydra import compose

    return compose(name, [*overrides])


if __name__ == "__main__":
    main()
