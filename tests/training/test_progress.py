"""Where standard output is no terminal, progress is plain lines."""

import logging
import re
from math import inf, nan
from types import SimpleNamespace

import pytest

from bcq_exp.training import progress
from tests.commands import TINY, fit

LINE = re.compile(
    r"step (\d+)/(\d+)  (\d+) steps/s  (\d+) s left  "
    r"actor \S+  critic1 \S+  critic2 \S+  vae \S+"
)


LOSSES = {f"{name}_loss": 0.5 for name in ("actor", "critic1", "critic2", "vae")}


@pytest.fixture
def clock(monkeypatch):
    """The seconds that it is, which a test may set."""
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def lines(caplog):
    return [m for r in caplog.records if (m := LINE.fullmatch(r.getMessage()))]


@pytest.mark.usefixtures("short_episodes")
def test_a_line_shows_step_rate_time_left_and_losses(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    fit(tmp_path / "r", *TINY)
    assert [int(m[1]) for m in lines(caplog)] == list(range(10, 61, 10))
    assert {m[2] for m in lines(caplog)} == {"60"}
    assert lines(caplog)[-1][4] == "0"


def test_lines_keep_their_distance(clock, caplog):
    caplog.set_level(logging.INFO)
    with progress.progress(1000, 2000, "x") as shown:
        for seconds, step in ((4, 1040), (10.5, 1105), (13, 1130), (21, 1210)):
            clock[0] = seconds
            shown.update(step)  # without new losses there is nothing to tell
            shown.update(step, LOSSES)
    # the steps before this launch took no time of this launch
    assert [tuple(map(int, m.groups())) for m in lines(caplog)] == [
        (1105, 2000, 10, 90),
        (1210, 2000, 10, 79),
    ]


def test_losses_that_no_step_reported_are_left_out(clock, caplog):
    caplog.set_level(logging.INFO)
    with progress.progress(0, 1000, "x") as shown:
        for losses in ({}, {"actor_loss": nan, "critic_loss": nan}, {"critic_loss": inf}):
            shown.update(round(10 * clock[0]), losses)
            clock[0] += 20
    assert [r.getMessage() for r in caplog.records] == [
        "step 200/1000  10 steps/s  80 s left",
        "step 400/1000  10 steps/s  60 s left  critic inf",
    ]


def test_the_time_left_follows_the_last_third_of_the_steps(clock, caplog):
    caplog.set_level(logging.INFO)
    with progress.progress(500, 4500, "x") as shown:
        for step in range(500, 3001, 50):  # 100 steps a second, from step 1000 on 10
            shown.update(step, LOSSES)
            clock[0] += 0.5 if step < 1000 else 5
    found = {int(m[1]): (int(m[3]), int(m[4])) for m in lines(caplog)}
    assert found[1150] == (16, 214)  # 100 steps in 1 s, 150 in 15 s
    assert found[1550] == (10, 295)
    assert found[2950] == (10, 155)


def test_a_group_shows_its_number_and_the_time_left_for_the_whole_sweep(clock, caplog):
    caplog.set_level(logging.INFO)
    for part in (progress.Part(1, 3, later=4.0), progress.Part(3, 3, later=0.0)):
        with progress.progress(0, 1000, "x", part) as shown:
            for seconds, step in ((0, 0), (20, 100)):
                clock[0] += seconds
                shown.update(step, {"actor_loss": 0.5})
    # 5 steps a second: 900 are left of the group, and 4 times its 1000 after it
    assert [r.getMessage() for r in caplog.records] == [
        "group 1 of 3: step 100/1000  5 steps/s  180 s left, sweep 16 min  actor 0.5",
        "group 3 of 3: step 100/1000  5 steps/s  180 s left  actor 0.5",
    ]


def test_a_worker_draws_no_bar_on_the_terminal_of_its_parent(monkeypatch, capsys):
    monkeypatch.setattr(progress.sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(progress.multiprocessing, "parent_process", lambda: "another")
    with progress.progress(0, 10, "title") as shown:
        shown.update(10, {"actor_loss": 0.25})
    assert capsys.readouterr().out == ""


def test_a_bar_takes_steps_and_losses(monkeypatch, capsys):
    monkeypatch.setattr(progress.sys.stdout, "isatty", lambda: True)
    with progress.progress(0, 10, "title") as shown:
        shown.update(5)
        shown.update(10, {"actor_loss": 0.25})
    out = capsys.readouterr().out
    assert "title" in out
    assert "10/10" in out
    assert "actor 0.25" in out
