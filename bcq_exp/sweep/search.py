"""A sweeper that searches with Optuna; cohorts train its trials, a database records them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Sweep
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from bcq_exp.config.containers import plain
from bcq_exp.config.identity import differences, identity
from bcq_exp.config.overrides import resuming, with_params
from bcq_exp.errors import RunStopped, UserError, first_line
from bcq_exp.extras import require
from bcq_exp.files import written
from bcq_exp.formatting import counted, numbers, shown
from bcq_exp.internals import value_or_error
from bcq_exp.ranges import SEED
from bcq_exp.sweep import result_table, state
from bcq_exp.sweep.composing import parted
from bcq_exp.sweep.launcher import CohortLauncher
from bcq_exp.training.folders import check_free

log = logging.getLogger(__name__)

STUDY_FILE = "optuna.db"  # in the sweep's folder


class OptunaSweeper(Sweeper):
    """``hydra/sweeper=optuna``, with the keys of hydra-optuna-sweeper.

    A study is continued: killed trials are trained again, failed ones tried once more, and new ones
    proposed up to ``n_trials`` in all.

    Args:
        sampler: ``_target_`` and arguments of an Optuna sampler; those that are null are left out.
        direction: maximize or minimize the objective.
        storage: URL of the database, or ``_target_`` and arguments of an Optuna storage; ``None``
            is a file in the sweep's folder.
        n_trials: trials in all.
        n_jobs: trials proposed, and trained, together.
        max_failure_rate: share of these; when more fail, the search stops.
        params: swept keys, as on a command line.
        custom_search_space: dotted path of a function of the configuration and a trial, which may
            suggest more values.
        search_space: must be ``None``: Hydra replaced it by ``params``.
    """

    def __init__(
        self,
        sampler: Mapping[str, Any],
        direction: str,
        storage: Any,
        study_name: str,
        n_trials: int,
        n_jobs: int,
        max_failure_rate: float,
        params: Mapping[str, Any] | None,
        custom_search_space: str | None = None,
        search_space: None = None,
    ) -> None:
        self._num_trials, self._batch_size = n_trials, n_jobs
        self._direction, self._storage, self._study_name = direction, storage, study_name
        self._max_failure_rate, self._params = max_failure_rate, dict(params or {})
        self._sampler_node = sampler
        self._extend = None if custom_search_space is None else _function(custom_search_space)

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
        self._check_sampler(space)
        if isinstance(self._launcher, CohortLauncher) and self._launcher.plan_only:
            self._say_plan(self._launcher, fixed, space)
            return
        check_free(folder)  # running trials of another launch look like interrupted ones
        if self.config.resume == "restart":
            self._set_aside(folder)
            fixed = resuming(fixed)
        study = self._study(folder)
        self._check_same(study, folder, space)
        waiting = _resubmitted(study, space, is_extended=self._extend is not None)
        failures: dict[int, str] = {}
        number = 0  # of the next job
        while (left := self._num_trials - _num_complete(study) - len(failures)) > 0:
            count = min(self._batch_size, left)
            taken_up, waiting = waiting[:count], waiting[count:]
            asked = [study.ask(space) for _ in range(count - len(taken_up))]
            trials = [*taken_up, *asked]
            overrides = self._overrides(trials, fixed)
            jobs = list(dict.fromkeys(overrides))  # equal trials are one run
            try:
                launched = self._launch(jobs, number, later=(left - count) / count)
            except UserError:  # of all trials: none may stay marked as running
                for trial in asked:
                    study.tell(trial, state=_optuna().trial.TrialState.FAIL)
                raise
            number += len(jobs)
            result_of = dict(zip(jobs, launched, strict=True))
            recorded = {
                trial.number: _record(study, trial, result_of[job])
                for trial, job in zip(trials, overrides, strict=True)
            }
            failed = {trial: reason for trial, reason in recorded.items() if reason is not None}
            failures |= failed
            if len(failed) / count > self._max_failure_rate:
                log.warning(
                    "%d of %s failed, above hydra.sweeper.max_failure_rate=%g: the search stops",
                    len(failed),
                    counted(count, "trial"),
                    self._max_failure_rate,
                )
                break
        _report(study, folder)
        result_table.log_results(self._results(study), folder, self.config.trainer.objective)
        if failures:
            reasons = [f"  trial {trial}: {reason}" for trial, reason in failures.items()]
            first = f"{counted(len(failures), 'trial')} failed:"
            raise RunStopped("\n".join([first, *reasons]), status=1)

    def _overrides(self, trials: Sequence[Any], fixed: Sequence[str]) -> list[tuple[str, ...]]:
        """Return each trial's command line."""
        if self._extend is not None:
            assert self.config is not None
            for trial in trials:
                self._extend(self.config, trial)
        return [
            (*fixed, *(f"{key}={value}" for key, value in trial.params.items())) for trial in trials
        ]

    def _launch(
        self, jobs: Sequence[tuple[str, ...]], number: int, later: float
    ) -> Sequence[JobReturn]:
        """Launch jobs; our launchers also estimate the time of the batches that come later."""
        launch = self._launcher.launch
        if isinstance(self._launcher, CohortLauncher):
            launch = partial(self._launcher.launch, later=later)
        return launch([list(job) for job in jobs], initial_job_idx=number)

    def _results(self, study: Any) -> list[result_table.Result]:
        """The trials that are complete, the best first; equal ones are one."""
        states = (_optuna().trial.TrialState.COMPLETE,)
        found = {str(t.params): t for t in study.get_trials(deepcopy=False, states=states)}
        sign = -1 if self._direction == "maximize" else 1
        ranked = sorted(found.values(), key=lambda trial: sign * trial.value)
        return [
            result_table.Result({k: shown(v) for k, v in each.params.items()}, [each.value], 1)
            for each in ranked
        ]

    def _say_plan(
        self, launcher: CohortLauncher, fixed: Sequence[str], space: Mapping[str, Any]
    ) -> None:
        """Print an estimate for trials that are not proposed yet."""
        print(
            f"up to {counted(self._num_trials, 'trial')}, {self._batch_size} at a time, chosen as "
            "results come in. Estimate for the low end and the high end of every range:"
        )
        ends = [
            [*fixed, *(f"{key}={_ends(found)[i]}" for key, found in space.items())] for i in (0, 1)
        ]
        launcher.say_plan(ends[:1] if ends[0] == ends[1] else ends)

    def _search_space(self, arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
        """Split overrides into fixed ones and Optuna's distributions; arguments replace params."""
        parsed = OverridesParser.create().parse_overrides(with_params(self._params, arguments))
        fixed = [o.input_line or "" for o in parsed if not o.is_sweep_override()]
        space = {o.get_key_element(): _distribution(o) for o in parsed if o.is_sweep_override()}
        if not space:
            raise UserError(
                "hydra/sweeper=optuna: nothing to search; give keys a range, such as "
                "'algo.lmbda=interval(0,1)'"
            )
        if self._extend is None and all(found.single() for found in space.values()):
            given = ", ".join(o.input_line or "" for o in parsed if o.is_sweep_override())
            raise UserError(
                f"{given}: a search over one setting, as no key has several values; give keys a "
                "range, such as 'algo.lmbda=interval(0,1)'"
            )
        return fixed, space

    def _check_sampler(self, space: Mapping[str, Any]) -> None:
        """Check a sampler by a trial in memory, because it checks few arguments earlier.

        Raises:
            UserError: if it cannot propose one.
        """
        optuna = _optuna()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = self._sampler(num_before=0)
        try:
            optuna.create_study(sampler=sampler, direction=self._direction).ask(space)
        except Exception as error:
            raise UserError(f"hydra.sweeper.sampler: {first_line(error)}") from error

    def _sampler(self, num_before: int) -> Any:
        """Optuna's sampler, for a study that has ``num_before`` trials.

        Raises:
            UserError: if it cannot be made with these arguments.
        """
        node = self._sampler_node
        if not isinstance(node, Mapping | DictConfig) or "_target_" not in node:
            raise UserError("hydra.sweeper.sampler: must be a choice, hydra/sweeper/sampler=NAME")
        arguments = {str(name): value for name, value in node.items() if value is not None}
        _optuna()
        if arguments["_target_"].endswith(".GridSampler"):
            raise UserError(
                "hydra/sweeper/sampler=grid: the default sweeper trains a grid; leave out "
                "hydra/sweeper=optuna and give values such as algo.lmbda=0.5,0.75"
            )
        if arguments["_target_"].endswith(".CmaEsSampler"):
            require("cmaes", "optuna", "hydra/sweeper/sampler=cmaes")
        if (seed := arguments.get("seed")) is not None:
            if not isinstance(seed, int) or seed not in SEED:
                raise UserError(
                    f"hydra.sweeper.sampler.seed={seed}: must be an integer {SEED}, or null"
                )
            # the same seed again would propose the same trials again
            arguments["seed"] = seed + num_before
        return _made("hydra.sweeper.sampler", arguments)

    def _study(self, folder: Path) -> Any:
        optuna = _optuna()
        with written(folder):
            folder.mkdir(parents=True, exist_ok=True)
        storage = self._storage or _url(folder / STUDY_FILE)
        if OmegaConf.is_dict(storage):
            storage = _made("hydra.sweeper.storage", storage)
        try:
            study = optuna.create_study(
                study_name=self._study_name,
                storage=storage,
                direction=self._direction,
                load_if_exists=True,
            )
        except Exception as error:  # any error of its database
            raise UserError(
                f"hydra.sweeper.storage={storage}: cannot be opened "
                f"({type(error).__name__}: {first_line(error)}); give another storage or name"
            ) from error
        study.sampler = self._sampler(num_before=len(study.trials))
        if study.trials:
            so_far, first = counted(len(study.trials), "trial"), _num_complete(study) + 1
            log.info("study %s: %s so far; %s", storage, so_far, _coming(first, self._num_trials))
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
        """Check that all trials of a study differ only in the searched keys.

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
        if theirs is None or not _num_complete(study):  # failed trials do not fix the configuration
            study.set_user_attr("learns", mine)
            return
        if changed := differences(theirs, mine):
            raise UserError(
                f"{folder} holds a search with another configuration: "
                f"{', '.join(changed.values())}; choose another name, or resume=restart to set it "
                "aside"
            )


def _url(file: Path) -> str:
    """The address of a database in a file, whatever characters its path has."""
    from sqlalchemy.engine import URL

    return URL.create("sqlite", database=str(file.absolute())).render_as_string()


def _function(path: str) -> Callable[[DictConfig, Any], None]:
    """Import the function of a dotted path.

    Raises:
        UserError: if there is no such function.
    """
    key = f"hydra.sweeper.custom_search_space={path}"
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name) if module else None
    except Exception as error:  # of its module, which is custom code
        raise UserError(f"{key}: {first_line(error)}") from error
    if not callable(found):
        raise UserError(f"{key}: must name a function")
    return found


def _made(key: str, node: Any) -> Any:
    """Instantiate a node with a ``_target_``.

    Raises:
        UserError: if it cannot be made.
    """
    try:
        return instantiate(node)
    except HydraException as error:
        raise UserError(f"{key}: {first_line(error.__cause__ or error)}") from error


def _resubmitted(study: Any, space: Mapping[str, Any], *, is_extended: bool = False) -> list[Any]:
    """Return interrupted trials, to train again; failed ones are queued again.

    Trials of another search space fail for good.

    Args:
        is_extended: whether a trial has values besides those of ``space``.
    """

    def fits(trial: Any) -> bool:
        names = trial.params.keys()
        return space.keys() <= names if is_extended else space.keys() == names

    optuna = _optuna()
    states = optuna.trial.TrialState
    for trial in study.get_trials(states=(states.RUNNING,)):
        if not fits(trial):
            study.tell(trial.number, state=states.FAIL)
    for trial in study.get_trials(states=(states.FAIL,)):
        if fits(trial) and not any(
            other.number > trial.number and other.params == trial.params for other in study.trials
        ):
            study.enqueue_trial(trial.params)
    running = study.get_trials(states=(states.RUNNING,))
    return [optuna.trial.Trial(study, trial._trial_id) for trial in running]


def _record(study: Any, trial: Any, result: JobReturn) -> str | None:
    """Record a trial's objective in the study; return the reason if it failed."""
    if result.status == JobStatus.COMPLETED and math.isfinite(result.return_value):
        study.tell(trial, result.return_value)
        return None
    study.tell(trial, state=_optuna().trial.TrialState.FAIL)
    if result.status == JobStatus.COMPLETED:
        return f"its objective is {result.return_value}"
    return str(value_or_error(result))


def _report(study: Any, folder: Path) -> None:
    if not _num_complete(study):
        return
    best = study.best_trial
    content = {"name": "optuna", "best_params": best.params, "best_value": best.value}
    OmegaConf.save(OmegaConf.create(content), folder / "optimization_results.yaml")
    setting = " ".join(f"{key}={value}" for key, value in best.params.items())
    trials = counted(_num_complete(study), "trial")
    log.info("best of %s: %s with %s", trials, *numbers(best.value), setting)


def _coming(first: int, last: int) -> str:
    """Name the trials that a launch trains."""
    if first > last:
        return "none is left to train"
    return f"trials {first} to {last} of {last}" if first < last else f"trial {last} of {last}"


def _num_complete(study: Any) -> int:
    return len(study.get_trials(deepcopy=False, states=(_optuna().trial.TrialState.COMPLETE,)))


def _distribution(override: Override) -> Any:
    """Optuna's distribution of a swept override.

    Raises:
        UserError: if it cannot be searched.
    """
    try:
        distributions = _optuna().distributions
        value = override.value()
        tags = ("log", "int") if isinstance(value, IntervalSweep) else ()
        if isinstance(value, Sweep) and (unknown := sorted(value.tags.difference(tags))):
            raise ValueError(f"no tag {unknown[0]}; only an interval has tags, log and int")
        if isinstance(value, IntervalSweep):
            low, high, is_log = value.start, value.end, "log" in value.tags
            if has_integers(value):
                return distributions.IntDistribution(int(low), int(high), log=is_log)  # type: ignore[arg-type]
            return distributions.FloatDistribution(low, high, log=is_log)
        values: list[Any] = list(override.sweep_iterator())
        if isinstance(value, RangeSweep):
            kind = "IntDistribution" if isinstance(values[0], int) else "FloatDistribution"
            low, high = min(values), max(values)  # they may fall, or be shuffled
            high = round(high, 12)  # 0.005 + 2 * 0.005 is a bit more than 0.015
            return getattr(distributions, kind)(low, high, step=abs(value.step or 1))
        return distributions.CategoricalDistribution(list(override.sweep_string_iterator()))
    except ValueError as error:
        raise UserError(f"{override.input_line}: {first_line(error)}") from error


def has_integers(interval: IntervalSweep) -> bool:
    """Whether a search draws only integers of an interval."""
    ends = (interval.start, interval.end)
    return "int" in interval.tags or all(isinstance(end, int) for end in ends)


def _ends(distribution: Any) -> tuple[Any, Any]:
    choices = getattr(distribution, "choices", None)
    return (choices[0], choices[-1]) if choices else (distribution.low, distribution.high)


def _optuna() -> Any:
    return require("optuna", "optuna", "hydra/sweeper=optuna")
