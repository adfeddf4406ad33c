"""Commands whose arguments Hydra composes into a configuration."""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig, OmegaConf, open_dict

import bcq_exp
from bcq_exp.cli import completion, schemas
from bcq_exp.cli.arguments import refuse
from bcq_exp.cli.choices import choices
from bcq_exp.cli.command import command
from bcq_exp.cli.explain import explained, is_mistake, several_values
from bcq_exp.config.checking import check, check_folders, documentation
from bcq_exp.errors import RunStopped, UserError
from bcq_exp.files import refusal

# inside the package in an installed wheel, beside it in a checkout
_PACKAGE = Path(bcq_exp.__file__).parent
_CONF_PLACES = (_PACKAGE / "conf", _PACKAGE.parent / "conf")


PLAN_ONLY = "++hydra.launcher.plan_only=true"  # what --plan means to our launcher and sweepers


class Plan(Protocol):
    """What a run or a sweep will be; nothing is written yet."""

    @property
    def overrides(self) -> Sequence[str]:
        """To launch it with, besides the user's."""

    def commit(self) -> None:
        """Write what has to be there before it is launched."""


A_NUMBER = r"[+-]?[\d_]+(\.[\d_]*)?([eE][+-]?[\d_]+)?"  # to Hydra's grammar
_IS_NO_CHOICE = re.compile(rf"null|true|false|{A_NUMBER}", re.IGNORECASE)
Task = Callable[[DictConfig], Any]
Compose = Callable[[list[str]], DictConfig]
PlanRun = Callable[[DictConfig, Path], Plan]
PlanSweep = Callable[[list[str], Compose], Plan]


def entry(
    config_name: str,
    *,
    plan_run: PlanRun | None = None,
    plan_sweep: PlanSweep | None = None,
    plan_only: str | None = None,
    paths: Sequence[str] = (),
    operand: str | None = None,
) -> Callable[[Task], Callable[[], None]]:
    """Turns ``task(config)`` into a command: composed by Hydra, checked, its errors one line.

    ``plan_run(config, folder)`` may refuse a single run before Hydra writes to its folder,
    ``plan_sweep(overrides, compose)`` a sweep. ``plan_only`` is the override that ``--plan`` stands
    for. ``paths`` are keys whose values are taken as they are, not by Hydra's grammar: a run's
    folder has commas and equals signs in it. ``operand`` is the one that is also given by a path
    alone.
    """

    def decorate(task: Task) -> Callable[[], None]:
        @command
        def main() -> None:
            from hydra._internal.utils import get_args_parser

            # Hydra prints errors its own way and exits with 1 unless told to let them through
            os.environ["HYDRA_FULL_ERROR"] = "1"
            warnings.filterwarnings("ignore", module="hydra")  # its errors follow, in a line
            several = {"-m", "--multirun"} & set(sys.argv)  # then commas part values
            verbatim = () if several else paths
            given = [_as_hydra_reads(word, verbatim) for word in sys.argv[1:]]
            _register()
            if completion.is_query(given):
                _prepare_completion(paths, operand)
            parser = get_args_parser()
            parser.error = refuse  # type: ignore[method-assign]
            if plan_only is not None:
                parser.add_argument("--plan", action="store_true")
            args = parser.parse_intermixed_args(given)
            options = [word for word in given if word not in args.overrides]
            if operand is not None:
                args.overrides = [
                    _as_hydra_reads(f"{operand}={word}", verbatim) if _is_path(word) else word
                    for word in args.overrides
                ]
            if plan_only is not None and args.plan:
                options = [word for word in options if not "--plan".startswith(word)]
                args.overrides.append(plan_only)
            is_sweep, plan = _plan(args, config_name, plan_run, plan_sweep)
            if plan is not None:
                plan.commit()
                args.overrides += plan.overrides
            if is_sweep is None:
                sys.argv[1:] = [*args.overrides, *options]
            _launch(args, config_name, task, is_sweep)

        return main

    return decorate


def _is_path(word: str) -> bool:
    """Whether a word is a path rather than an override, whose key has no slash."""
    key, equals, _ = word.partition("=")
    is_group = key.lstrip("+~").startswith("hydra/")
    return not word.startswith(("+", "~")) and (not equals or ("/" in key and not is_group))


def _prepare_completion(paths: Sequence[str], operand: str | None) -> None:
    """Offer paths, and leave only overrides, as Hydra reads them, in the line that it completes."""
    line = completion.line()
    if operand is not None:
        print(*completion.folders(line.typed))
    program, *words = line.words
    overrides = [word for word in words if operand is None or not _is_path(word)]
    read = [_as_hydra_reads(word, paths) for word in overrides]
    completion.replace_line([program, *read], line.typed)


def _as_hydra_reads(word: str, paths: Sequence[str]) -> str:
    key, _, value = word.partition("=")
    if value == "None":  # so W&B's agents write it
        return f"{key}=null"
    if key == "name" and re.fullmatch(A_NUMBER, value):  # 2024_01_05 would be 20240105
        return f"{key}='{value}'"
    if key in paths and value and value[0] not in "'\"" and value != "null":
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"{key}='{escaped}'"
    return word


def conf_folder() -> Path:
    """Where the configuration lies."""
    return next(place for place in _CONF_PLACES if place.is_dir())


def _register() -> None:
    """Make our schemas, launchers, sweepers and resolvers known to Hydra."""
    from bcq_exp.sweep import plugins

    schemas.register()
    OmegaConf.register_new_resolver("bcq.documentation", documentation, replace=True)
    plugins.register()
    OmegaConf.register_new_resolver("bcq.choices", choices, replace=True)


def _launch(args: argparse.Namespace, config_name: str, task: Task, is_sweep: bool | None) -> None:
    """Hand over to Hydra, which reads the command line itself where ``is_sweep`` is ``None``."""
    from hydra import main as hydra_main
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    def checked(cfg: DictConfig) -> Any:
        try:
            check(cfg)
            return task(cfg)
        except Exception as error:
            alone = HydraConfig.get().mode != RunMode.MULTIRUN
            stopped = isinstance(error, RunStopped) and (alone or error.by_signal)
            if is_mistake(error) or stopped or (alone and refusal(error)):
                raise _Ended(error)  # noqa: B904 - the error itself goes on
            raise

    main = hydra_main(version_base="1.3", config_path=str(conf_folder()), config_name=config_name)
    error = None
    try:
        if is_sweep is None:
            main(checked)()
        else:  # the rest of it, which would compose once more to learn what this launch is
            with _search_path(args):
                hydra = GlobalHydra.instance().hydra
                assert hydra is not None
                (hydra.multirun if is_sweep else hydra.run)(
                    config_name=args.config_name or config_name,
                    task_function=checked,
                    overrides=[*args.overrides, f"hydra.mode={'MULTIRUN' if is_sweep else 'RUN'}"],
                )
    except _Ended as ended:
        error = ended.error
    if error is not None:
        raise error


class _Ended(BaseException):
    """An error on its way past Hydra, which would add lines of its own to an ``Exception``."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _plan(
    args: argparse.Namespace,
    config_name: str,
    plan_run: PlanRun | None,
    plan_sweep: PlanSweep | None,
) -> tuple[bool | None, Plan | None]:
    """Compose and check a run or a sweep before Hydra makes a folder.

    Returns whether it is a sweep, ``None`` where Hydra is to find out, and its plan if it has one.
    """
    from hydra.types import RunMode

    from bcq_exp.sweep.plan import split

    if args.experimental_rerun:
        raise UserError("--experimental-rerun: not supported; name=NAME continues a run")
    plan_only = PLAN_ONLY in args.overrides
    if args.help or args.hydra_help or args.cfg or args.info or args.shell_completion:
        return None, None
    if args.config_path:  # another root, which Hydra finds its own way: checked when it runs
        if plan_only:
            raise UserError("--plan: cannot be combined with --config-path")
        return None, None

    def compose(overrides: list[str]) -> DictConfig:
        return _compose(args.config_name or config_name, overrides)

    with _search_path(args):
        if args.multirun:
            return True, plan_sweep and explained(plan_sweep, args.overrides, compose)
        fixed, axes = explained(split, args.overrides)
        cfg = compose([*fixed, *(axis.overrides[0] for axis in axes)])
        # a choice of sweep is a sweep, whether or not its file says so
        if cfg.hydra.mode == RunMode.MULTIRUN or cfg.hydra.runtime.choices.get("sweep"):
            return True, plan_sweep and explained(plan_sweep, args.overrides, compose)
        if axes:
            raise UserError(several_values(axes[0].given))
        if plan_only:
            raise UserError("--plan: describes a sweep, and this is a single run; add -m")
        folder = check_folders(cfg, is_sweep=False)
        with open_dict(cfg):
            del cfg["hydra"]
        check(cfg)
        return False, plan_run and plan_run(cfg, folder)


@contextmanager
def _search_path(args: argparse.Namespace) -> Iterator[None]:
    """Hydra as the command line sets it up, with the folder of ``--config-dir``.

    Raises:
        UserError: if that is no folder.
    """
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.config_search_path import SearchPathQuery
    from hydra.initialize import get_gh_backup, restore_gh_from_backup

    search_path = create_config_search_path(str(conf_folder()))
    if args.config_dir is not None:
        own = Path(args.config_dir)
        if not own.is_dir():
            raise UserError(f"--config-dir {own}: there is no such folder")
        before_schema = SearchPathQuery(provider="schema")
        search_path.prepend("command-line", f"file://{own.resolve()}", before_schema)
    backup = get_gh_backup()
    Hydra.create_main_hydra2(task_name="bcq_exp", config_search_path=search_path)
    try:
        yield
    finally:
        restore_gh_from_backup(backup)


def _compose(config_name: str, overrides: list[str]) -> DictConfig:
    """A configuration with its ``hydra`` node."""
    from hydra import compose

    def composed(given: list[str]) -> DictConfig:
        cfg = compose(config_name, overrides=given, return_hydra_config=True)
        for group in cfg.hydra.runtime.choices:
            node = group.rpartition("@")[2]
            if "@" in group and not OmegaConf.is_dict(value := cfg.get(node)):
                raise UserError(f"{node}={value}: choose it with {group}={value}")
        return cfg

    try:
        return explained(composed, overrides)
    except UserError as error:
        algorithm = [override for override in overrides if override.startswith("algo=")]
        try:
            choices = explained(composed, algorithm).hydra.runtime.choices
        except UserError:  # it is the algorithm's
            choices = explained(composed, []).hydra.runtime.choices
        line = _of_groups(overrides, choices, str(error), " ".join(algorithm))
        if line is None:
            raise
        raise UserError(line) from error


def _of_groups(
    overrides: Sequence[str], choices: Mapping[str, str | None], said: str, algorithm: str
) -> str | None:
    """What is wrong with overrides of groups, where what Hydra said does not lead there.

    ``choices`` are those of the defaults.
    """
    if unknown := re.search(r"Could not override '(.*)'. No match in the defaults list", said):
        groups = ", ".join(sorted(group for group in choices if "hydra/" not in group))
        of_algorithm = f" with {algorithm}" if algorithm else ""
        return f"{unknown[1]}: no such group{of_algorithm}; there are {groups}"
    for override in overrides:
        group, _, value = override.partition("=")
        if not group:
            return f"{override}: must be KEY=VALUE"
        if value == "null" and group in choices:
            leave_out = ", or be left out" if choices[group] is None else ""
            return f"{override}: must name one of the group's choices{leave_out}"
        if said.startswith("Config group override must be") and _IS_NO_CHOICE.fullmatch(value):
            return f"{override}: must name one of the group's choices"
        if value.startswith("[") and choices.get(group) is not None:
            return (
                f"{override}: must be one choice; to sweep, write {group}={value.strip('[]')} "
                "with -m"
            )
    return None
