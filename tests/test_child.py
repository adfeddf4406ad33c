"""Commands of commands: all are run, signals reach them, and nothing is begun after one."""

import os
import signal
import subprocess
import sys

import pytest

from bcq_exp.cli.child import Command, run_all
from tests.commands import wait_until

SCRIPT = """
import sys
from bcq_exp.cli.child import Command, run_all

class Python(Command):
    @property
    def words(self):
        return [sys.executable, "-c", *self.arguments]

print(run_all([Python("m", (code,)) for code in sys.argv[2:]], int(sys.argv[1])), flush=True)
"""
WAIT = "import time, pathlib; pathlib.Path({!r}).touch(); time.sleep(60)"
GENTLE = "import signal, sys; signal.signal(signal.SIGINT, lambda *_: sys.exit(0)); " + WAIT


def started(at_once, *codes, cwd):
    arguments = [sys.executable, "-c", SCRIPT, str(at_once), *codes]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=cwd)


@pytest.mark.parametrize("at_once", [1, 2])
def test_failed_runs_do_not_stop_the_others_a_mistake_does(at_once, tmp_path):
    codes = [f"import sys, pathlib; pathlib.Path('{n}').touch(); sys.exit({n})" for n in (1, 0, 2)]
    done = started(at_once, *codes, "import pathlib; pathlib.Path('late').touch()", cwd=tmp_path)
    out, _ = done.communicate(timeout=60)
    assert done.returncode == 0
    assert set(eval(out)) == {0, 1, 2}
    assert {"0", "1", "2"} <= {path.name for path in tmp_path.iterdir()}
    assert at_once == 2 or not (tmp_path / "late").exists()


def test_lines_of_several_commands_begin_with_a_name_and_no_bar_is_drawn(tmp_path):
    code = "import sys; print('step 1'); print('end', {}, sys.stdout.isatty())"
    done = started(2, code.format(1), code.format(2), cwd=tmp_path)
    out, _ = done.communicate(timeout=60)
    *lines, statuses = out.splitlines()
    assert sorted(lines) == ["m: end 1 False", "m: end 2 False", "m: step 1", "m: step 1"]
    assert eval(statuses) == [0, 0]
    assert Command("bcq_exp", ("-m", "name=x_bc", "seed=0,1")).name == "x_bc"


@pytest.mark.parametrize(
    ("code", "signum"),
    [
        (GENTLE, signal.SIGINT),  # ends with 0, as a run that was done just then
        (WAIT, signal.SIGTERM),
        (WAIT, signal.SIGHUP),  # a terminal that is closed
    ],
)
def test_a_signal_ends_what_runs_and_nothing_else_is_begun(code, signum, tmp_path):
    going = started(2, code.format("a"), code.format("b"), code.format("c"), cwd=tmp_path)
    wait_until((tmp_path / "a").exists)
    wait_until((tmp_path / "b").exists)
    os.kill(going.pid, signum)
    out, _ = going.communicate(timeout=30)
    assert going.returncode == 128 + signum
    assert out == ""
    assert not (tmp_path / "c").exists()


def test_output_can_be_left_out(tmp_path, capfd):
    class Python(Command):
        @property
        def words(self):
            return [sys.executable, "-c", *self.arguments]

    code = "import sys; print('shown'); print('said', file=sys.stderr)"
    assert run_all([Python("", (code,))], silent=True) == [0]
    seen = capfd.readouterr()
    assert (seen.out, seen.err) == ("", "said\n")
