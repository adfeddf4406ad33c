"""Commands whose arguments Hydra composes into a configuration."""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from hydra import version
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from bcq_exp import internals
from bcq_exp.cli import schemas
from bcq_exp.cli.arguments import refuse
from bcq_exp.cli.choices import choices
from bcq_exp.cli.command import command
from bcq_exp.cli.explain import PastHydra, errors_pass, explained
from bcq_exp.cli.grammar import in_quotes, parsed, reads_as_text
from bcq_exp.cli.own_files import check_own_files
from bcq_exp.config.checking import check, documentation
from bcq_exp.errors import UserError
from bcq_exp.sweep import plugins

Task = Callable[[DictConfig], Any]


def entry(
    config_name: str, *, plan: str | None = None, as_text: Sequence[str] = (), sweeps: bool = True
) -> Callable[[Task], Callable[[], None]]:
    """Turn ``task(config)`` into a command that Hydra composes, with one-line errors.

    Args:
        plan: the override that ``--plan`` stands for.
        as_text: keys whose values are taken as text, not parsed by Hydra's grammar: a run's folder
            contains commas and equals signs, a name may look like a number.
        sweeps: whether the command has ``-m``; then a comma in such text of a single run needs
            quotes.
    """

    def decorate(task: Task) -> Callable[[], None]:
        def checked(cfg: DictConfig) -> Any:
            with errors_pass():
                check(cfg)
                return task(cfg)

        @command
        def main() -> None:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra does not reformat errors
            warnings.filterwarnings("ignore", module="hydra")  # its errors are reported in one line
            version.setbase("1.3")
            register()
            parser = internals.hydra_parser()
            meant = {"--dry-run": "--plan"} if plan is not None else {}
            meant |= dict.fromkeys(("--sweep", "--multi-run"), "-m") if sweeps else {}
            parser.error = partial(refuse, meant=meant)  # type: ignore[method-assign]
            if plan is not None:
                parser.add_argument(
                    "--plan", action="store_true", help="print what would be done, and how long"
                )
            args = parser.parse_intermixed_args()
            if args.experimental_rerun:
                raise UserError("--experimental-rerun: not supported; name=NAME continues a run")
            words = args.overrides
            if sweeps and not (args.cfg or args.info or args.shell_completion):
                args.multirun |= any(word.startswith("sweep=") for word in words)
            args.overrides = [_read(word, as_text, sweeps, args.multirun) for word in words]
            if args.config_dir is not None and not os.path.isdir(args.config_dir):
                raise UserError(f"--config-dir {args.config_dir}: there is no such folder")
            check_own_files(_own_folders(args.config_dir, args.overrides), args.overrides)
            if plan is not None and args.plan:
                args.overrides.append(plan)
            if args.multirun and not sweeps:
                raise UserError("-m: only used by bcq_exp train; leave it out")
            if not sweeps:
                check_single(args.overrides, "only bcq_exp train sweeps")
            conf = str(schemas.conf_folder())
            try:
                with explained(args.overrides, args.multirun), _checked_search_path():
                    internals.run_hydra(args, parser, checked, conf, config_name)
                return
            except PastHydra as passed:
                error = passed.error
            raise error

        return main

    return decorate


def _read(word: str, as_text: Sequence[str], sweeps: bool, is_sweep: bool) -> str:
    """Convert a word to an override in Hydra's grammar, where commas separate swept values.

    Raises:
        UserError: for several values in a single run of a command that sweeps.
    """
    key, _, value = word.partition("=")
    if value == "None":  # so W&B's agents write it
        return f"{key}=null"
    if key not in as_text or not value or value == "null" or value[0] in "'\"":
        return word
    if (is_sweep and ("," in value or "(" in value)) or reads_as_text(word):
        return word
    quoted = f"{key}={in_quotes(value)}"
    if sweeps and "," in value:
        raise UserError(
            f"{word}: several values need a sweep; add -m, or write {shlex.quote(quoted)} for text "
            "with a comma"
        )
    return quoted


def check_single(words: Sequence[str], reason: str) -> None:
    """Refuse what makes a sweep of a command that has none.

    Args:
        reason: why it has none, for messages.

    Raises:
        UserError: with the first such override.
    """
    for word in words:
        given = parsed(word)
        if given is None:
            continue
        if given.key_or_group == "hydra.mode" and given.value() == RunMode.MULTIRUN.name:
            raise UserError(f"{word}: leave it out; {reason}")
        if given.is_sweep_override():
            raise UserError(f"{word}: must be one value; {reason}")


def _own_folders(config_dir: str | None, overrides: Sequence[str]) -> list[Path]:
    """The folders of the user's files, in Hydra's order: the search path, then --config-dir."""
    places: list[str] = []
    for word in overrides:
        if word.startswith("hydra.searchpath=") and (found := parsed(word)) is not None:
            value = found.value()
            places = value if isinstance(value, list) else []
    folders = [str(place).removeprefix("file://") for place in places]
    given = [] if config_dir is None else [config_dir]
    return [Path(folder) for folder in (*folders, *given) if "://" not in folder]


@contextmanager
def _checked_search_path() -> Iterator[None]:
    """Refuse folders of ``hydra.searchpath`` that do not exist, of which Hydra only warns.

    Raises:
        UserError: with the first of them.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="provider=hydra.searchpath")
        try:
            yield
        except UserWarning as warning:
            path = str(warning).partition("path=")[2].removesuffix(" is not available.")
            raise UserError(f"hydra.searchpath: there is no folder or package {path}") from None


def register() -> None:
    """Register schemas and resolvers with Hydra."""
    schemas.register()
    plugins.remove_namesakes()
    OmegaConf.register_new_resolver("bcq.documentation", documentation, replace=True)
    OmegaConf.register_new_resolver("bcq.choices", choices, replace=True)
