"""What was measured, as Markdown: a section a row, merged into the results of earlier calls."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from tests.bench.contest import ROOT, Outcome, Row, ratios
from tests.bench.peers.venv import PYTHON as PEERS_PYTHON

RESULTS = Path(__file__).parent / "RESULTS.md"
NOTES = "notes"
HEADER = ("contestant", "median", "min – max", "× best other", "of GEMM peak", "peak MiB")
OUR_PACKAGES = ("torch", "numpy", "gymnasium", "mujoco", "hydra-core", "wandb")
PEER_PACKAGES = ("tianshou", "d3rlpy", "torch", "gymnasium", "numpy")

Peaks = Mapping[str, float]


def gemm_peaks(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The best measured GFLOP/s of each precision."""
    peaks: dict[str, float] = {}
    for outcome in outcomes:
        precision = outcome.contestant.precision
        if outcome.failure is None and precision is not None:
            peaks[precision] = max(peaks.get(precision, 0.0), outcome.median)
    return peaks


def table(row: Row, outcomes: Sequence[Outcome], peaks: Peaks) -> str:
    """One row's contestants as a Markdown table."""
    lines = [HEADER, ("---",) + ("---:",) * (len(HEADER) - 1)]
    lines += [_cells(row, outcome, outcomes, peaks) for outcome in outcomes]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(
    row: Row, outcome: Outcome, outcomes: Sequence[Outcome], peaks: Peaks
) -> tuple[str, ...]:
    name = outcome.contestant.name
    if outcome.failure is not None:
        return (name, f"not available: {outcome.failure.replace('|', '/')}", "", "", "", "")
    memory = [figures["peak_mib"] for figures in outcome.rounds if "peak_mib" in figures]
    return (
        name,
        f"{_shown(outcome.median)} {row.unit}",
        f"{_shown(min(outcome.values))} – {_shown(max(outcome.values))}",
        _ratio(row, outcome, outcomes),
        _fraction(outcome, peaks),
        f"{max(memory):.0f}" if memory else "",
    )


def _ratio(row: Row, outcome: Outcome, outcomes: Sequence[Outcome]) -> str:
    values = ratios(outcome, outcomes, row.higher_is_better) if outcome.contestant.ours else []
    if not values:
        return ""
    return f"{statistics.median(values):.2f} ({min(values):.2f} – {max(values):.2f})"


def _fraction(outcome: Outcome, peaks: Peaks) -> str:
    """The share of the precision's best matrix product that a step's arithmetic reaches."""
    contestant = outcome.contestant
    peak = peaks.get(contestant.precision or "")
    if contestant.flops is None or peak is None:
        return ""
    return f"{outcome.median * contestant.flops / 1e9 / peak:.0%}"


def _shown(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def conditions(repeats: int, threads: int, load: float) -> str:
    """One line: when, on what, how, at which commit."""
    commit = _output(["git", "describe", "--always", "--dirty"]) or "no commit"
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit}, {cpu_model()}, {gpu_model()}"
        f"{os.cpu_count()} cores, {threads} threads, {repeats} alternating rounds, "
        f"load {load:.1f} before"
    )


def cpu_model() -> str:
    """The CPU's name, with the matrix extensions that decide about bf16."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    found = re.search(r"model name\s*:\s*(.+)", text)
    extensions = [flag for flag in ("avx512_bf16", "amx_bf16") if re.search(rf"\b{flag}\b", text)]
    return " ".join([found.group(1) if found else platform.processor(), *extensions])


def gpu_model() -> str:
    """The GPU's name and a comma, where there is one."""
    return "".join(f"{torch.cuda.get_device_name(i)}, " for i in range(torch.cuda.device_count()))


def versions() -> str:
    """The packages that matter, ours and the peers'."""
    ours = ", ".join(f"{name} {_version(name)}" for name in OUR_PACKAGES)
    code = (
        "import json, sys; from importlib.metadata import PackageNotFoundError, version;"
        "print(json.dumps([f'{name} {version(name)}' for name in sys.argv[1:]]))"
    )
    peers = _output([str(PEERS_PYTHON), "-c", code, *PEER_PACKAGES])
    listed = ", ".join(json.loads(peers)) if peers else "not installed"
    return f"Python {platform.python_version()}: {ours}; peers: {listed}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _output(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def command() -> str:
    """The call that measured, as a reader would type it."""
    return " ".join(["python -m tests.bench.run", *sys.argv[1:]])


def merge(sections: Mapping[str, str], order: Sequence[str]) -> None:
    """Replace these sections of RESULTS.md; other rows' and the notes stay, notes last."""
    old = _sections(RESULTS.read_text()) if RESULTS.exists() else {}
    notes = old.pop(NOTES, "")
    merged = {**old, **sections}
    names = [name for name in order if name in merged]
    names += [name for name in merged if name not in names]
    parts = ["# Results of `make bench`", *(f"## {name}\n\n{merged[name]}" for name in names)]
    if notes:
        parts.append(f"## {NOTES}\n\n{notes}")
    RESULTS.write_text("\n\n".join(parts) + "\n")


def _sections(text: str) -> dict[str, str]:
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)[1:]
    return {name.strip(): body.strip() for name, body in zip(parts[::2], parts[1::2], strict=True)}
