"""``python -m bcq_exp.paper budget=small``: section 6 of the BCQ paper, from agents to claims."""

from __future__ import annotations

import os
from collections.abc import Sequence

from omegaconf import DictConfig

from bcq_exp.cli.child import Command, run, run_all
from bcq_exp.cli.entry import entry
from bcq_exp.errors import RunStopped


@entry("paper")
def main(cfg: DictConfig) -> None:
    from bcq_exp.paper import checks, page
    from bcq_exp.paper.claims import decide
    from bcq_exp.paper.estimate import say_how_long
    from bcq_exp.paper.plan import make_plan
    from bcq_exp.paper.results import Results

    plan = make_plan(cfg, _launcher(), _compose)
    checks.check(cfg, plan)
    say_how_long(cfg, plan)
    if cfg.plan_only:
        return
    run(plan.agents.command)
    _all([dataset.command for dataset in checks.missing_data(plan)], os.cpu_count() or 1)
    statuses = run_all([sweep.command for sweep in plan.sweeps], cfg.at_once)
    _stop_at(max((s for s in statuses if s != 1), default=0))  # 1: runs of it failed
    results = Results(plan)
    decided = decide(results)
    page.write(results, decided, plan.output)
    print(page.claims_markdown(decided), end="")
    print(plan.output.resolve() / "index.html")
    if failed := results.runs["reason"].dropna().tolist():
        raise RunStopped(f"{len(failed)} of {plan.num_learners} runs failed: {failed[0]}", 1)


def _all(commands: Sequence[Command], at_once: int) -> None:
    _stop_at(max(run_all(commands, at_once, silent=True), default=0))


def _stop_at(status: int) -> None:
    """End where a command did, which has said why."""
    if status:
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
