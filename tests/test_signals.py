"""SIGINT and SIGTERM end a command in one line, however they reach it."""

import os
import signal
import subprocess
import sys

import pytest

from bcq_exp import signals
from tests.commands import wait_until

COMMAND = """
import logging, os, signal, sys, time
from bcq_exp.cli.command import command

def send(signum):
    os.kill(os.getpid(), getattr(signal, signum))

@command
def main():
    {body}

main()
"""
WAIT = "pathlib.Path('ready').touch(); time.sleep(20)"


def started(code, cwd, **kwargs):
    return subprocess.Popen(
        [sys.executable, "-c", f"import pathlib\n{code}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        **kwargs,
    )


def ended(process):
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR2"])
def test_a_command_names_the_signal_that_stopped_it(name, tmp_path):
    process = started(COMMAND.format(body=WAIT), tmp_path)
    wait_until((tmp_path / "ready").exists)
    process.send_signal(getattr(signal, name))
    status = 128 + getattr(signal, name)
    assert ended(process) == (status, "", f"stopped by {name}\n")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("module", [f"import pathlib, time; {WAIT}", COMMAND.format(body=WAIT)])
def test_a_signal_during_imports_is_named_too(name, module, tmp_path):
    (tmp_path / "slow.py").write_text(f"import pathlib\n{module}")
    code = """
import bcq_exp.__main__ as entry, sys
entry.COMMANDS["status"] = ("slow", "")
sys.argv[1:] = ["status"]
entry.main()
"""
    process = started(code, tmp_path)
    wait_until((tmp_path / "ready").exists)
    process.send_signal(getattr(signal, name))
    status = 128 + getattr(signal, name)
    assert ended(process) == (status, "", f"stopped by {name}\n")


def test_nothing_is_logged_afterwards(tmp_path):
    """torch, interrupted while it is imported, logs statistics at the exit."""
    body = """
    import atexit
    logging.basicConfig(level="INFO")
    atexit.register(logging.info, "statistics")
    send("SIGTERM")
"""
    assert ended(started(COMMAND.format(body=body), tmp_path))[2] == "stopped by SIGTERM\n"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_within_a_callback_of_the_interpreter_is_not_lost(name, tmp_path):
    """Python prints what such a callback raises, and continues."""
    body = f"""
    import weakref
    class Held: pass
    held = Held()
    callback = weakref.ref(held, lambda _: send("{name}"))
    del held
    time.sleep(20)
"""
    status = 128 + getattr(signal, name)
    done = ended(started(COMMAND.format(body=body), tmp_path))
    assert done == (status, "", f"stopped by {name}\n")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_that_a_library_swallows_is_not_lost(name, tmp_path):
    """As C code does that asks whether an object has an attribute, while torch is imported."""
    body = f"""
    try:
        send("{name}")
        time.sleep(20)
    except BaseException:
        pass
    time.sleep(20)
"""
    status = 128 + getattr(signal, name)
    done = ended(started(COMMAND.format(body=body), tmp_path))
    assert done == (status, "", f"stopped by {name}\n")


def test_what_cleaning_up_raises_is_not_shown(tmp_path):
    """Libraries do not expect to be stopped midway."""
    body = """
    try:
        send("SIGTERM")
        time.sleep(20)
    finally:
        raise ValueError("half done")
"""
    done = ended(started(COMMAND.format(body=body), tmp_path))
    assert done == (143, "", "stopped by SIGTERM\n")


def test_cleaning_up_is_not_interrupted(tmp_path):
    body = """
    try:
        send("SIGTERM")
        time.sleep(20)
    finally:
        try:
            time.sleep(1)
            raise ValueError
        except ValueError:
            time.sleep(1)
        print("clean", flush=True)
"""
    done = ended(started(COMMAND.format(body=body), tmp_path))
    assert done == (143, "clean\n", "stopped by SIGTERM\n")


CLEANS = """
    try:
        send("SIGTERM")
        time.sleep(20)
    finally:
        send("SIGTERM")
        time.sleep({seconds})
        {then}
        print("clean", flush=True)
"""


def test_a_signal_that_comes_twice_at_once_is_one(tmp_path):
    """``timeout`` signals a process, then its group."""
    body = CLEANS.format(seconds=0.1, then="")
    done = ended(started(COMMAND.format(body=body), tmp_path))
    assert done == (143, "clean\n", "stopped by SIGTERM\n")


def test_a_second_signal_ends_what_does_not_end(tmp_path):
    body = CLEANS.format(seconds=signals.SAME_WITHIN + 0.2, then='send("SIGTERM"); time.sleep(20)')
    assert ended(started(COMMAND.format(body=body), tmp_path)) == (-15, "", "")


def test_an_ignored_signal_stays_ignored(tmp_path):
    """A shell's background jobs ignore SIGINT."""
    body = 'send("SIGINT"); time.sleep(0.1); print("done")'
    process = started(
        COMMAND.format(body=body),
        tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert ended(process) == (0, "done\n", "")


def test_requests_are_made_once_and_then_left_to_who_was_asked_before(monkeypatch):
    now, requests, before = [0.0], [], []
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    kept = signal.signal(signal.SIGTERM, lambda signum, _: before.append(signum))
    try:
        with signals.requests(requests.append):
            for seconds in (0, 0.5, 0.4):
                now[0] += seconds
                os.kill(os.getpid(), signal.SIGTERM)
            assert (requests, before) == ([signal.SIGTERM], [])
            os.kill(os.getpid(), signal.SIGUSR2)  # another
            assert (requests, before) == ([signal.SIGTERM, signal.SIGUSR2], [])
            now[0] += 1
            os.kill(os.getpid(), signal.SIGTERM)
            assert (len(requests), before) == (2, [signal.SIGTERM])
        os.kill(os.getpid(), signal.SIGTERM)
        assert (len(requests), before) == (2, [signal.SIGTERM] * 2)
    finally:
        signal.signal(signal.SIGTERM, kept)
