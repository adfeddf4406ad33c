"""A sweep, and its status, on a terminal of 80 columns."""

import re

import pytest
from rich.console import Console

from bcq_exp.status import progress_table
from bcq_exp.sweep.state import RunState
from tests.commands import TINY
from tests.terminal import in_terminal

GRID = ("algo.num_sampled_action=3,6", "seed=0,1")  # two kinds of runs: two groups


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("terminal")
    return folder, in_terminal("-m", "name=s", *TINY, *GRID, cwd=folder)


def test_log_lines_stand_alone_above_the_bar(sweep):
    _, shown = sweep
    assert (shown.status, shown.stderr) == (0, "")
    lines = {line for frame in shown.frames for line in frame}
    bars = {line for line in lines if "━" in line}
    assert any(line.startswith("group 1 of 2 ") for line in bars)
    assert any(line.startswith("group 2 of 2 ") for line in bars)
    assert all(re.match(r"group [12] of 2 [━╸╺]{10} *\d+/60 \d+/s", line) for line in bars)
    assert any(re.search(r"/s \d+:\d\d left, sweep \d+:\d\d", line) for line in bars)
    assert any(re.search(r"group 2 of 2 .*/s \d+:\d\d left actor \S", line) for line in bars)


def test_a_sweep_ends_with_its_results_and_the_command_that_compares_them(sweep):
    _, shown = sweep
    said = [re.sub(r"-?\d+\.\d", "X", line) for line in shown.last]
    assert said[0] == "multirun/s: 4 runs, 4 to train in 2 groups of 2"
    assert any(re.fullmatch(r"2 of 4 runs ended, about \d+ s left", line) for line in said)
    *_, ended, header, first, second, report = said
    assert ended == "4 of 4 runs ended"
    assert header.split() == ["num_sampled_action", "runs", "return"]
    assert {tuple(first.split()), tuple(second.split())} == {
        ("3", "2", "X", "±", "X"),
        ("6", "2", "X", "±", "X"),
    }
    assert report == "report: bcq_exp compare multirun/s writes multirun/s/report/index.html"
    best, other = (float(line.split()[2]) for line in shown.last[-3:-1])
    assert best >= other


def test_status_names_runs_by_their_swept_keys(sweep):
    folder, _ = sweep
    shown = in_terminal("status", "multirun/s", cwd=folder)
    assert (shown.status, shown.stderr) == (0, "")
    title, *_, first, _, _, last = shown.last
    assert title == "multirun/s: 4 runs: 4 done"
    assert re.fullmatch(r" +3 +0 +done +60/60 +-\d+\.\d", first)
    assert re.fullmatch(r" +6 +1 +done +60/60 +-\d+\.\d", last)


SEARCH = (
    "algo.lmbda=0.1234,algo.tau=0.001234,algo.num_sampled_action=20,actor.phi=0.1234,"
    "actor_optim.lr=0.001234,critic_optim.lr=0.001234,vae_optim.lr=0.001234-1a2b3c4d"
)
GRID_RUN = "algo.lmbda=0.5,algo.tau=0.001,seed=0"
FAILED = "a loss is not finite at step 5"


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("name", [SEARCH, GRID_RUN, "12", "x" * 180])
def test_status_and_return_are_never_hidden(name, width):
    states = [
        RunState(name, "running", 5000, 1_000_000, 75.0, -812.3),
        RunState(name, "failed", 5, 1_000_000, None, -1812.3, FAILED),
        RunState(name, "missing"),
    ]
    lines = rendered(states, width)
    assert max(map(len, lines)) <= width
    (header,) = (line for line in lines if "status" in line)
    assert header.split()[-4:] == ["status", "step", "left", "return"] or "reason" in header
    running, failed, _ = (
        next(line for line in lines[1:] if f" {state.status} " in f"{line} ") for state in states
    )
    assert "running" in running and "5000/1000000" in running and "1:15" in running
    assert "-812.3" in running and "-1812.3" in failed
    assert FAILED in " ".join(lines)


def test_keys_that_do_not_fit_are_named():
    narrow, wide = (
        rendered([RunState(SEARCH, "done", 1, 1, None, 2.0)], width) for width in (80, 160)
    )
    assert narrow[-1] == "hidden in this narrow terminal: vae_optim.lr"
    assert wide[-1].split() == [
        "0.1234", "0.001234", "20", "0.1234", *["0.001234"] * 3, "done", "1/1", "2.00",
    ]  # fmt: skip


def test_a_live_table_keeps_what_is_running_and_what_failed():
    states = [RunState(f"seed={k}", "done") for k in range(40)]
    states[30] = RunState("seed=30", "running", 1, 9)
    states[35] = RunState("seed=35", "failed", 1, 9)
    lines = rendered(states, 80, most=4)
    rows = [line.split()[:2] for line in lines[2:-1]]
    assert rows == [["0", "done"], ["1", "done"], ["30", "running"], ["35", "failed"]]
    assert lines[-1] == "and 36 more"


def rendered(states, width, most=None):
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(progress_table("multirun/s", states, width, most))
    return [line.rstrip() for line in captured.get().splitlines()]
