"""What the command-line entries share: Hydra with our configuration, and errors in one line."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

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


T = TypeVar("T")
Task = Callable[[DictConfig], Any]
BeforeRun = Callable[[DictConfig, Path], None]
Compose = Callable[[list[str]], DictConfig]
BeforeSweep = Callable[[list[str], Compose], list[str]]


def entry(
    config_name: str,
    *,
    before_run: BeforeRun | None = None,
    before_sweep: BeforeSweep | None = None,
) -> Callable[[Task], Callable[[], None]]:
    """Turns ``task(config)`` into a command: composed by Hydra, checked, its errors one line.

    ``before_run(config, folder)`` may refuse a single run before Hydra writes to its folder;
    ``before_sweep(overrides, compose)`` a sweep, and gives more overrides to launch it with. Exit
    status: 0 done; 2 the user's mistake; 1 a run that failed; 130 or 143 stopped by a signal.
    """

    def decorate(task: Task) -> Callable[[], None]:
        def main() -> None:
            # Hydra prints errors its own way and exits with 1 unless told to let them through
            os.environ["HYDRA_FULL_ERROR"] = "1"
            # W&B's agents write Python's None where Hydra reads null
            sys.argv = [re.sub(r"^([^\s=]+)=None$", r"\1=null", argument) for argument in sys.argv]
            config.register()
            try:
                _run(config_name, task, before_run, before_sweep)
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


def conf_folder() -> Path:
    """Where the configuration lies."""
    return next(place for place in _CONF_PLACES if place.is_dir())


def _run(
    config_name: str,
    task: Task,
    before_run: BeforeRun | None,
    before_sweep: BeforeSweep | None,
) -> None:
    from hydra import main as hydra_main
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    conf = conf_folder()
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

    more = _check_before_running(conf, config_name, before_run, before_sweep)
    sys.argv += more
    hydra_main(version_base="1.3", config_path=str(conf), config_name=config_name)(checked)()
    if ended:
        raise ended[0]


def _check_before_running(
    conf: Path,
    config_name: str,
    before_run: BeforeRun | None,
    before_sweep: BeforeSweep | None,
) -> list[str]:
    """Compose and check a run or a sweep before Hydra makes a folder; returns more overrides."""
    from hydra import initialize_config_dir
    from hydra._internal.utils import get_args_parser
    from hydra.types import RunMode

    args = get_args_parser().parse_args()
    if args.help or args.hydra_help or args.cfg or args.info or args.shell_completion:
        return []
    if args.config_path or args.config_name or args.config_dir:
        return []  # composed from elsewhere: checked when it runs

    def compose(overrides: list[str]) -> DictConfig:
        return _compose(config_name, overrides)

    with initialize_config_dir(str(conf), version_base="1.3"):
        cfg = None if args.multirun else compose(args.overrides)
        if cfg is None or cfg.hydra.mode == RunMode.MULTIRUN:
            if before_sweep is None:
                return []
            return _in_one_line(before_sweep, args.overrides, compose)
        folder = Path(cfg.hydra.run.dir)
        with open_dict(cfg):
            del cfg["hydra"]
        config.check(cfg)
        if before_run is not None:
            before_run(cfg, folder)
    return []


def _compose(config_name: str, overrides: list[str]) -> DictConfig:
    """A configuration with its ``hydra`` node."""
    from hydra import compose

    def composed() -> DictConfig:
        cfg = compose(config_name, overrides=overrides, return_hydra_config=True)
        str(cfg.hydra.run.dir)  # a name that is none shows when it is resolved
        return cfg

    return _in_one_line(composed)


def _in_one_line(function: Callable[..., T], *arguments: Any) -> T:
    """What Hydra raises while it reads what the user gave, as the user's mistake."""
    try:
        return function(*arguments)
    except Exception as error:
        if isinstance(error, UserError) or not _is_expected(error):
            raise
        raise UserError(_one_line(error)) from error


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
