"""A command that sends itself a signal: ``python -m tests.training.signalled STEP SIGNAL ...``.

The signal comes when an engine has taken so many steps.
"""

import os
import sys
from pathlib import Path
from subprocess import CompletedProcess

from bcq_exp.train import main
from bcq_exp.training import build
from tests.forked import forked


def run_until(step: int, signum: int, *args: str, cwd: Path) -> CompletedProcess[str]:
    """The command in a process that gets a signal when it has taken ``step`` steps."""
    return forked(str(step), str(int(signum)), *args, cwd=cwd, module="tests.training.signalled")


def spoil(step: int, signum: int) -> None:
    def build_engine(*args, build_engine=build.build_engine):
        engine = build_engine(*args)
        advance = engine.advance

        def advance_and_send(num_steps):
            left = step - engine.step
            statistics = advance(min(num_steps, left) if left > 0 else num_steps)
            if engine.step == step:
                os.kill(os.getpid(), signum)
            return statistics

        engine.advance = advance_and_send
        return engine

    build.build_engine = build_engine


if __name__ == "__main__":
    spoil(int(sys.argv.pop(1)), int(sys.argv.pop(1)))
    main()
