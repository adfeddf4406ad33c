"""Commands whose arguments Hydra composes into a configuration."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra import version
from omegaconf import DictConfig, OmegaConf

from bcq_exp import internals
from bcq_exp.cli import schemas
from bcq_exp.cli.arguments import refuse
from bcq_exp.cli.choices import choices
from bcq_exp.cli.command import command
from bcq_exp.cli.explain import PastHydra, errors_pass, explained
from bcq_exp.cli.grammar import in_quotes, reads_as_text
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
        sweeps: whether the command has ``-m``.
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
            _register()
            parser = internals.hydra_parser()
            meant = {"--dry-run": "--plan"} if plan is not None else {}
            meant |= dict.fromkeys(("--sweep", "--multi-run"), "-m") if sweeps else {}
            parser.error = partial(refuse, meant=meant)  # type: ignore[method-assign]
            if plan is not None:
                parser.add_argument("--plan", action="store_true")
            args = parser.parse_intermixed_args()
            if args.experimental_rerun:
                raise UserError("--experimental-rerun: not supported; name=NAME continues a run")
            args.overrides = [_read(word, as_text, args.multirun) for word in args.overrides]
            if args.config_dir is not None and not os.path.isdir(args.config_dir):
                raise UserError(f"--config-dir {args.config_dir}: there is no such folder")
            if args.config_dir is not None:
                check_own_files(Path(args.config_dir), args.overrides)
            if plan is not None and args.plan:
                args.overrides.append(plan)
            if not (args.cfg or args.info or args.shell_completion):
                args.multirun |= any(word.startswith("sweep=") for word in args.overrides)
            if args.multirun and not sweeps:
                raise UserError("-m: leave it out; only bcq_exp train sweeps")
            conf = str(schemas.conf_folder())
            try:
                with explained(args.overrides, args.multirun, command_sweeps=sweeps):
                    internals.run_hydra(args, parser, checked, conf, config_name)
                return
            except PastHydra as passed:
                error = passed.error
            raise error

        return main

    return decorate


def _read(word: str, as_text: Sequence[str], is_sweep: bool) -> str:
    """Convert a word to an override in Hydra's grammar, where commas separate swept values."""
    key, _, value = word.partition("=")
    if value == "None":  # so W&B's agents write it
        return f"{key}=null"
    if key not in as_text or not value or value == "null" or value[0] in "'\"":
        return word
    if (is_sweep and ("," in value or "(" in value)) or reads_as_text(word):
        return word
    return f"{key}={in_quotes(value)}"


def _register() -> None:
    """Register schemas and resolvers with Hydra."""
    schemas.register()
    plugins.remove_namesakes()
    OmegaConf.register_new_resolver("bcq.documentation", documentation, replace=True)
    OmegaConf.register_new_resolver("bcq.choices", choices, replace=True)
