"""Commands run in forked children of one warm process: `python -m` without the seconds of imports.

The process (``python -m tests.forked``) has imported what commands need and registered our plugins
with Hydra, and nothing else of them has happened in it. Each request is carried out by a child of
its own, with its own folder, arguments, standard streams, environment and limits. A child ends as
Python ends a main module.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import IO

IMPORTS = (  # of others; all of ours are
    "hydra._internal.hydra", "hydra.main", "pandas", "rich.live", "rich.progress", "wandb",
    "wandb.sdk.launch.inputs.internal", "wandb_workspaces.workspaces",
    "gymnasium.envs.classic_control",
)  # fmt: skip
MAINS = ("bcq_exp.__main__", "bcq_exp.paper.__main__")  # which run when they are imported
Limits = Sequence[tuple[int, int]]  # as resource.setrlimit takes them
# address space: what asks for more is refused, not the machine's end
MEMORY: Limits = ((resource.RLIMIT_AS, 6 << 30),)


@dataclass(frozen=True)
class Done:
    """How a command ended; ``status`` is ``None`` where it did not, and was killed."""

    status: int | None
    stdout: str
    stderr: str
    seconds: float


class Forked:
    """The warm process, as a context manager."""

    def __enter__(self) -> Forked:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def run(
        self,
        module: str,
        arguments: Sequence[str],
        cwd: Path,
        limit: float = 60,
        env: Mapping[str, str] | None = None,
        limits: Limits = MEMORY,
        terminal: str | None = None,
    ) -> Done:
        """``python -m module arguments`` in ``cwd``, for at most ``limit`` seconds.

        Args:
            terminal: the device that its standard output is; by default it is kept.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        request = {
            "module": module, "arguments": list(arguments), "cwd": str(cwd), "limit": limit,
            "env": dict(os.environ if env is None else env), "limits": limits,
            "terminal": terminal,
        }  # fmt: skip
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Done(**json.loads(self._process.stdout.readline()))


def forked(
    *args: str,
    cwd: Path,
    module: str = "bcq_exp",
    env: Mapping[str, str] | None = None,
    limits: Limits = (),
) -> subprocess.CompletedProcess[str]:
    """As :func:`tests.commands.bcq_exp`, in a child of the process that is kept."""
    done = kept().run(module, args, cwd, limit=200, env=env, limits=limits)
    assert done.status is not None, f"it did not end: {done.stderr}"
    return subprocess.CompletedProcess(args, done.status, done.stdout, done.stderr)


@cache
def kept() -> Forked:
    """The warm process of this one, till it ends."""
    process = Forked().__enter__()
    atexit.register(process.__exit__)
    return process


def main() -> None:
    """Answer requests until the input ends."""
    import torch

    import bcq_exp
    from bcq_exp.sweep import plugins
    from tests.commands import compose

    torch.set_num_threads(1)
    plugins.remove_namesakes()
    plugins.register()  # before modules of ours that derive from Hydra's
    found = [module.name for module in walk_packages(bcq_exp.__path__, "bcq_exp.")]
    for name in (*IMPORTS, *found):
        if name not in MAINS:
            import_module(name)
    compose("seed=0")  # fills the tables of Hydra's and OmegaConf's parsers
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(**json.loads(line))), flush=True)


def _answer(
    module: str,
    arguments: list[str],
    cwd: str,
    limit: float,
    env: dict[str, str],
    limits: Limits,
    terminal: str | None,
) -> dict:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            os.setsid()
            os.environ.clear()
            os.environ.update(env)
            for what, most in limits:
                resource.setrlimit(what, (most, most))
            output = out.fileno() if terminal is None else os.open(terminal, os.O_RDWR)
            os._exit(_be(module, arguments, cwd, output, err.fileno()))
        status = _wait(child, began + limit)
        seconds = time.monotonic() - began
        return {"status": status, "stdout": _text(out), "stderr": _text(err), "seconds": seconds}


def _wait(child: int, deadline: float) -> int | None:
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _be(module: str, arguments: list[str], cwd: str, out: int, err: int) -> int:
    """The child: the command as the main module; its exit status."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (out, 1), (err, 2)):
        os.dup2(source, target)
    sys.stdin = os.fdopen(0, closefd=False)
    os.chdir(cwd)
    sys.argv = [module, *arguments]
    if module != "bcq_exp":  # the package itself stays; what it runs is its __main__
        sys.modules.pop(module, None)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as ended:
        status = _status_of(ended)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def _status_of(ended: SystemExit) -> int:
    if ended.code is None or isinstance(ended.code, int):
        return ended.code or 0
    print(ended.code, file=sys.stderr)
    return 1


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


if __name__ == "__main__":
    main()
