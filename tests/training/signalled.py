"""A run that gets a signal when its engine has taken so many steps.

In a process of its own: ``python -m tests.training.signalled STEP SIGNAL ...``.
"""

import os
import signal
import sys
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from bcq_exp.train import main
from tests.commands import spoil_engine
from tests.forked import forked


def run_until(step: int, signum: int, *args: str, cwd: Path) -> CompletedProcess[str]:
    """The command in a process that gets a signal when it has taken ``step`` steps."""
    return forked(str(step), str(int(signum)), *args, cwd=cwd, module="tests.training.signalled")


def interrupt_at(
    monkeypatch: pytest.MonkeyPatch, step: int, signum: int = signal.SIGINT, times: int = 1
) -> None:
    """Send this process the signal when an engine has advanced to ``step``."""

    def spoil(engine):
        advance = engine.advance

        def advance_and_send(num_steps):
            left = step - engine.step
            statistics = advance(min(num_steps, left) if left > 0 else num_steps)
            if engine.step == step:
                for _ in range(times):
                    os.kill(os.getpid(), signum)
            return statistics

        engine.advance = advance_and_send

    spoil_engine(monkeypatch, spoil)


if __name__ == "__main__":
    interrupt_at(pytest.MonkeyPatch(), int(sys.argv.pop(1)), int(sys.argv.pop(1)))
    main()
