"""What the command-line entries share: Hydra with our configuration, and errors in one line."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from bcq_exp import config
from bcq_exp.errors import RunStopped, UserError

# inside the package in an installed wheel, beside it in a checkout
_CONF_PLACES = (Path(__file__).parent / "conf", Path(__file__).parents[1] / "conf")


class ConsoleHandler(logging.StreamHandler):
    """Log lines to the terminal, on the stream that is standard output at that moment."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:  # a progress bar puts itself in the place of standard output
        return sys.stdout


Task = Callable[[DictConfig], Any]
BeforeRun = Callable[[DictConfig, Path], None]


def entry(
    config_name: str, *, before_run: BeforeRun | None = None
) -> Callable[[Task], Callable[[], None]]:
    """Turns ``task(config)`` into a command: composed by Hydra, checked, its errors one line.

    ``before_run(config, folder)`` may refuse a single run before Hydra writes to its folder. Exit
    status: 0 done; 2 the user's mistake; 1 a run that failed; 130 or 143 stopped by a signal.
    """

    def decorate(task: Task) -> Callable[[], None]:
        def main() -> None:
            # Hydra prints errors its own way and exits with 1 unless told to let them through
            os.environ["HYDRA_FULL_ERROR"] = "1"
            config.register()
            try:
                _run(config_name, task, before_run)
            except RunStopped as stopped:
                _exit(str(stopped), stopped.status)
            except KeyboardInterrupt:
                _exit("stopped by SIGINT before training began", 130)
            except Exception as error:
                if not _is_expected(error):
                    raise
                _exit(f"error: {_one_line(error)}", 2)

        return main

    return decorate


def _run(config_name: str, task: Task, before_run: BeforeRun | None) -> None:
    from hydra import main as hydra_main
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    conf = next(place for place in _CONF_PLACES if place.is_dir())
    ended: list[Exception] = []

    def checked(cfg: DictConfig) -> Any:
        try:
            config.check(cfg)
            return task(cfg)
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN or not _is_expected(error):
                raise
            ended.append(error)  # past Hydra, which would add lines of its own
            return None

    _check_before_running(conf, config_name, before_run)
    hydra_main(version_base="1.3", config_path=str(conf), config_name=config_name)(checked)()
    if ended:
        raise ended[0]


def _check_before_running(conf: Path, config_name: str, before_run: BeforeRun | None) -> None:
    """Compose and check a run, or each run of a grid, before Hydra makes a folder."""
    from hydra import initialize_config_dir
    from hydra._internal.utils import get_args_parser

    args = get_args_parser().parse_args()
    if args.help or args.hydra_help or args.cfg or args.info or args.shell_completion:
        return
    if args.config_path or args.config_name or args.config_dir:
        return  # composed from elsewhere: checked when it runs
    with initialize_config_dir(str(conf), version_base="1.3"):
        if args.multirun:
            for overrides in _grid(args.overrides):
                config.check(_compose(config_name, overrides)[0])
            return
        cfg, folder = _compose(config_name, args.overrides)
        config.check(cfg)
        if before_run is not None:
            before_run(cfg, folder)


def _compose(config_name: str, overrides: list[str]) -> tuple[DictConfig, Path]:
    """The configuration of one run, and its folder."""
    from hydra import compose

    try:
        cfg = compose(config_name, overrides=overrides, return_hydra_config=True)
        folder = Path(cfg.hydra.run.dir)
    except Exception as error:  # composing does nothing but read what the user gave
        raise UserError(_one_line(error)) from error
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg, folder


def _grid(overrides: list[str]) -> list[list[str]]:
    """The overrides of each run of a sweep; none where a search, not a grid, will choose them."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
        if any(override.key_or_group == "hydra/sweeper" for override in parsed):
            return []
        (grid,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    except Exception as error:
        raise UserError(_one_line(error)) from error
    return grid


def _exit(message: str, status: int) -> None:
    print(message, file=sys.stderr)
    sys.exit(status)


def _is_expected(error: Exception) -> bool:
    from hydra.errors import HydraException

    return isinstance(error, UserError | RunStopped | HydraException | OmegaConfBaseException)


def _one_line(error: BaseException) -> str:
    """What Hydra or OmegaConf objects to, as one line: what, where, what is allowed."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    for link in chain:
        if isinstance(link, UserError):
            return str(link)
    for link in chain:
        if isinstance(link, OmegaConfBaseException) and (line := _key_error(link, str(error))):
            return line
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if "Config search path:" in lines:  # a choice that does not exist
        lines = lines[: lines.index("Config search path:")]
        head, _, *options = lines
        options = [option for option in options if not option.startswith("_")]
        return f"{head}; there are {', '.join(options)}"
    return "; ".join(line for line in lines if not line.startswith(("See http", "Set the env")))


def _key_error(error: OmegaConfBaseException, message: str) -> str | None:
    """A misspelt key or a value of the wrong type, in terms of the schema."""
    override = re.search(r"override '?\+*([^\s'=]+)(=\S.*)?", message)
    if override is None or error.parent_node is None:
        return None
    key, value = override.group(1), override.group(2) or ""
    known = config.schema_of(error.parent_node)
    name = key.rsplit(".", 1)[-1]
    if name in known:
        return f"{key}{value}: must be {config.describe(known[name])}"
    names = sorted(str(k) for k in error.parent_node) or sorted(known)
    return f"{key}: no such key; there are {', '.join(names)}"
