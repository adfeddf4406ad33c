"""The sweeper that searches: Optuna proposes, cohorts train, and a database remembers."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from bcq_exp.config.meaning import differences, identity
from bcq_exp.config.overrides import going_on
from bcq_exp.config.plain import plain
from bcq_exp.errors import RunStopped, UserError, first_line
from bcq_exp.extras import require
from bcq_exp.files import written
from bcq_exp.ranges import COUNT, SEED
from bcq_exp.sweep import results, state
from bcq_exp.sweep.composing import parted
from bcq_exp.sweep.launcher import CohortLauncher
from bcq_exp.training.record import check_free
from bcq_exp.words import counted

log = logging.getLogger(__name__)

STUDY_FILE = "optuna.db"  # in the sweep's folder
SAMPLERS = {
    "tpe": "TPESampler",
    "random": "RandomSampler",
    "cmaes": "CmaEsSampler",
    "qmc": "QMCSampler",
}


class OptunaSweeper(Sweeper):
    """``hydra/sweeper=optuna``. A study goes on where it was: killed trials are taken up again,
    failed ones tried once more, and new ones proposed up to ``num_trials`` in all.

    Args:
        batch_size: trials proposed, and trained, together.
        direction: maximize or minimize the objective.
        storage: URL of the database; ``None`` is a file in the sweep's folder.
        sampler: one of SAMPLERS.
        seed: of the sampler.
        params: swept keys, as on a command line.
    """

    def __init__(
        self,
        num_trials: int,
        batch_size: int,
        direction: str,
        storage: str | None,
        study_name: str,
        sampler: str,
        seed: int,
        params: Mapping[str, Any] | None,
    ) -> None:
        for name, count, allowed in (
            ("num_trials", num_trials, COUNT),
            ("batch_size", batch_size, COUNT),
            ("seed", seed, SEED),
        ):
            if not isinstance(count, int) or count not in allowed:
                raise UserError(f"hydra.sweeper.{name}={count}: must be an integer {allowed}")
        for name, value, known in (
            ("sampler", sampler, tuple(SAMPLERS)),
            ("direction", direction, ("maximize", "minimize")),
        ):
            if value not in known:
                raise UserError(f"hydra.sweeper.{name}={value}: must be one of {', '.join(known)}")
        self._num_trials, self._batch_size = num_trials, batch_size
        self._direction, self._storage, self._study_name = direction, storage, study_name
        self._sampler, self._seed, self._params = sampler, seed, dict(params or {})

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.config = config
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        assert self.config is not None
        folder = Path(self.config.hydra.sweep.dir)
        fixed, space = self._search_space(arguments)
        if isinstance(self._launcher, CohortLauncher) and self._launcher.plan_only:
            self._say_plan(self._launcher, fixed, space)
            return
        check_free(folder)  # what another launch has under way looks like what a kill left
        if self.config.resume == "restart":
            self._set_aside(folder)
            fixed = going_on(fixed)
        study = self._study(folder)
        self._check_same(study, folder, space)
        waiting = _taken_up_again(study, space)
        taken_up = {trial.number for trial in waiting}
        failures: dict[int, str] = {}
        number = 0
        while (left := self._num_trials - _num_complete(study) - len(failures)) > 0:
            count = min(self._batch_size, left)
            trials = [waiting.pop(0) if waiting else study.ask(space) for _ in range(count)]
            overrides = [
                [*fixed, *(f"{key}={value}" for key, value in trial.params.items())]
                for trial in trials
            ]
            jobs = list(dict.fromkeys(map(tuple, overrides)))  # equal trials are one run
            launch = self._launcher.launch
            if isinstance(self._launcher, CohortLauncher):
                launch = partial(self._launcher.launch, later=(left - count) / count)
            try:
                launched = launch(list(map(list, jobs)), initial_job_idx=number)
            except UserError:  # of all: none of ours is to look as if it were running
                for trial in trials:
                    if trial.number not in taken_up:
                        study.tell(trial, state=_optuna().trial.TrialState.FAIL)
                raise
            number += len(jobs)
            result_of = dict(zip(jobs, launched, strict=True))
            for trial, given in zip(trials, overrides, strict=True):
                result = result_of[tuple(given)]
                failure = _tell(study, trial, result)
                if failure is not None:
                    failures[trial.number] = failure
        _report(study, folder)
        results.log_results(self._results(study), folder, self.config.trainer.objective)
        if failures:
            raise RunStopped(
                "\n".join(
                    [
                        f"{counted(len(failures), 'trial')} failed:",
                        *(f"  trial {number}: {reason}" for number, reason in failures.items()),
                    ]
                ),
                status=1,
            )

    def _results(self, study: Any) -> list[results.Result]:
        """The trials that are complete, the best first; equal ones are one."""
        states = (_optuna().trial.TrialState.COMPLETE,)
        found = {str(t.params): t for t in study.get_trials(deepcopy=False, states=states)}
        sign = -1 if self._direction == "maximize" else 1
        ranked = sorted(found.values(), key=lambda trial: sign * trial.value)
        return [results.Result(_shown(each.params), [each.value], 1) for each in ranked]

    def _say_plan(
        self, launcher: CohortLauncher, fixed: Sequence[str], space: Mapping[str, Any]
    ) -> None:
        """What can be said of trials that are yet to be proposed."""
        print(
            f"up to {counted(self._num_trials, 'trial')}, {self._batch_size} at a time, chosen as "
            "results come in. Estimate for the low end and the high end of every range:"
        )
        ends = [
            [*fixed, *(f"{key}={_ends(found)[i]}" for key, found in space.items())] for i in (0, 1)
        ]
        launcher.say_plan(ends[:1] if ends[0] == ends[1] else ends)

    def _search_space(self, arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
        """The overrides that stand, and Optuna's distributions by key; arguments replace params."""
        lines = {f"{key}": f"{key}={value}" for key, value in self._params.items()}
        lines |= {line.partition("=")[0]: line for line in arguments}
        parsed = OverridesParser.create().parse_overrides(list(lines.values()))
        fixed = [o.input_line or "" for o in parsed if not o.is_sweep_override()]
        space = {o.get_key_element(): _distribution(o) for o in parsed if o.is_sweep_override()}
        if not space:
            raise UserError(
                "hydra/sweeper=optuna: nothing to search; give keys a range, such as "
                "'algo.lmbda=interval(0,1)'"
            )
        return fixed, space

    def _study(self, folder: Path) -> Any:
        optuna = _optuna()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with written(folder):
            folder.mkdir(parents=True, exist_ok=True)
        storage = self._storage or f"sqlite:///{(folder / STUDY_FILE).absolute()}"
        try:
            study = optuna.create_study(
                study_name=self._study_name,
                storage=storage,
                direction=self._direction,
                load_if_exists=True,
            )
        except Exception as error:  # whatever its database has to say
            raise UserError(
                f"hydra.sweeper.storage={storage}: cannot be opened "
                f"({type(error).__name__}: {first_line(error)}); give another storage or name"
            ) from error
        # the same seed again would propose the same trials again
        seed = self._seed + len(study.trials)
        study.sampler = getattr(optuna.samplers, SAMPLERS[self._sampler])(seed=seed)
        if study.trials:
            log.info("study %s: %s so far", storage, counted(len(study.trials), "trial"))
        return study

    def _set_aside(self, folder: Path) -> None:
        """Set the study's file and its runs aside.

        Raises:
            UserError: if the study is elsewhere.
        """
        if self._storage is not None:
            raise UserError(
                f"resume=restart: cannot set aside the study in "
                f"hydra.sweeper.storage={self._storage}; give another hydra.sweeper.study_name "
                "and another name"
            )
        if (folder / STUDY_FILE).exists():
            state.set_aside(folder, STUDY_FILE)

    def _check_same(self, study: Any, folder: Path, space: Mapping[str, Any]) -> None:
        """See that all trials of a study learn the same but for what is searched.

        Raises:
            UserError: naming the keys that differ.
        """
        assert self.config is not None
        cfg, _ = parted(self.config.copy())
        settings = cfg.trainer
        mine = {
            **identity(plain(cfg)),
            "trainer.num_steps": settings.num_steps,
            "trainer.objective": settings.objective,
        }
        mine = {key: value for key, value in mine.items() if key not in space}
        theirs = study.user_attrs.get("learns")
        if theirs is None or not _num_complete(study):  # what began and failed binds nobody
            study.set_user_attr("learns", mine)
            return
        if changed := differences(theirs, mine):
            raise UserError(
                f"{folder} holds a search with another configuration: "
                f"{', '.join(changed.values())}; choose another name, or resume=restart to set it "
                "aside"
            )


def _taken_up_again(study: Any, space: Mapping[str, Any]) -> list[Any]:
    """Trials that a kill left running; failed ones are queued again for the study to ask.

    Those of another space fail for good.
    """
    optuna = _optuna()
    states = optuna.trial.TrialState
    for trial in study.get_trials(states=(states.RUNNING,)):
        if trial.params.keys() != space.keys():
            study.tell(trial.number, state=states.FAIL)
    for trial in study.get_trials(states=(states.FAIL,)):
        if trial.params.keys() == space.keys() and not any(
            other.number > trial.number and other.params == trial.params for other in study.trials
        ):
            study.enqueue_trial(trial.params)
    running = study.get_trials(states=(states.RUNNING,))
    return [optuna.trial.Trial(study, trial._trial_id) for trial in running]


def _tell(study: Any, trial: Any, result: JobReturn) -> str | None:
    """Give the study a trial's objective; why there is none, if it failed."""
    if result.status == JobStatus.COMPLETED and math.isfinite(result.return_value):
        study.tell(trial, result.return_value)
        return None
    study.tell(trial, state=_optuna().trial.TrialState.FAIL)
    if result.status == JobStatus.COMPLETED:
        return f"its objective is {result.return_value}"
    return str(result._return_value)


def _report(study: Any, folder: Path) -> None:
    if not _num_complete(study):
        return
    best = study.best_trial
    content = {"name": "optuna", "best_params": best.params, "best_value": best.value}
    OmegaConf.save(OmegaConf.create(content), folder / "optimization_results.yaml")
    shown = " ".join(f"{key}={value}" for key, value in best.params.items())
    trials = counted(_num_complete(study), "trial")
    log.info("best of %s: %.1f with %s", trials, best.value, shown)


def _shown(params: Mapping[str, Any]) -> dict[str, str]:
    """Values of a trial as a table shows them: numbers to four digits."""
    return {k: f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in params.items()}


def _num_complete(study: Any) -> int:
    return len(study.get_trials(deepcopy=False, states=(_optuna().trial.TrialState.COMPLETE,)))


def _distribution(override: Override) -> Any:
    """Optuna's distribution of a swept override.

    Raises:
        UserError: if it is none.
    """
    try:
        return _as_distribution(override)
    except ValueError as error:
        raise UserError(f"{override.input_line}: {first_line(error)}") from error


def _as_distribution(override: Override) -> Any:
    distributions = _optuna().distributions
    value = override.value()
    if isinstance(value, IntervalSweep):
        is_log = "log" in value.tags
        if "int" in value.tags:
            return distributions.IntDistribution(int(value.start), int(value.end), log=is_log)  # type: ignore[arg-type]
        return distributions.FloatDistribution(value.start, value.end, log=is_log)
    values: list[Any] = list(override.sweep_iterator())
    if isinstance(value, RangeSweep):
        kind = "IntDistribution" if isinstance(values[0], int) else "FloatDistribution"
        high = round(values[-1], 12)  # 0.005 + 2 * 0.005 is a bit more than 0.015
        return getattr(distributions, kind)(values[0], high, step=value.step)
    return distributions.CategoricalDistribution(list(override.sweep_string_iterator()))


def _ends(distribution: Any) -> tuple[Any, Any]:
    choices = getattr(distribution, "choices", None)
    return (choices[0], choices[-1]) if choices else (distribution.low, distribution.high)


def _optuna() -> Any:
    return require("optuna", "optuna", "hydra/sweeper=optuna")
