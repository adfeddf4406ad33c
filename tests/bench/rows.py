"""The table's rows: what is measured against what."""

from __future__ import annotations

import sys
from dataclasses import replace

from tests.bench.contest import Contestant, Row
from tests.bench.peers.venv import PYTHON as PEERS_PYTHON
from tests.bench.sizes import SIZES, step_flops

SAMPLE_COUNTS = (1, 10, 100)
GEMM_ROWS = (1000, 100)
CUDA = "trainer.device=cuda"


def all_rows(seconds: float) -> list[Row]:
    """Every row; training is timed for ``seconds`` a contestant and round."""
    return [
        _gemm(),
        _train("train_paper", "Training, the paper's sizes, CPU", "paper", seconds, bf16=True),
        _train("train_small", "Training, Pendulum 64-64, one core", "small", seconds, cores=1),
        _sweep(seconds),
        _samples(seconds),
        _episodes(),
        _forward(),
        _online(seconds),
        _first_step(),
        _help(),
        _train_gpu("train_gpu", "Training, the paper's sizes, GPU", "paper", seconds, bf16=True),
        _train_gpu("train_gpu_small", "Training, Pendulum 64-64, GPU", "small", seconds),
        _sweep_gpu(seconds),
        _online_gpu(seconds),
    ]


def uses_peers(row: Row) -> bool:
    """Whether a contestant lives in .venv-peers."""
    return any(contestant.command[0] == str(PEERS_PYTHON) for contestant in row.contestants)


def _script(name: str, *args: str) -> tuple[str, ...]:
    return (sys.executable, "-m", f"tests.bench.{name}", *args)


def _ours(name: str, size: str, seconds: float, precision: str, *overrides: str) -> Contestant:
    given = [o.partition("=")[2] for o in overrides if o.startswith("algo.num_sampled_action=")]
    return Contestant(
        name,
        _script(
            "ours_step",
            *("--size", size, "--seconds", str(seconds), _precision(precision)),
            *overrides,
        ),
        ours=True,
        precision=precision,
        flops=step_flops(SIZES[size], int(given[0]) if given else None),
    )


def _peer(name: str, size: str, seconds: float, precision: str = "fp32") -> Contestant:
    script = f"tests.bench.peers.{name}_step"
    flag = () if precision == "fp32" else (f"--{precision}",)
    command = (str(PEERS_PYTHON), "-m", script, "--size", size, "--seconds", str(seconds), *flag)
    flops = step_flops(SIZES[size])
    return Contestant(f"{name} {precision}", command, precision=precision, flops=flops)


def _train(
    name: str,
    title: str,
    size: str,
    seconds: float,
    *,
    bf16: bool = False,
    cores: int | None = None,
) -> Row:
    precisions = ("fp32", "bf16") if bf16 else ("fp32",)
    ours = [_ours(f"ours {p}", size, seconds, p, "trainer.device=cpu") for p in precisions]
    peers = [_peer(peer, size, seconds) for peer in ("tianshou", "d3rlpy")]
    peers += [_peer("jax", size, seconds, precision) for precision in precisions]
    return Row(name, title, "steps/s", (*ours, *peers), cores=cores)


def _sweep(seconds: float) -> Row:
    ours = Contestant(
        "ours, 27 runs as one cohort",
        _script("sweep", "--seconds", str(seconds), "--size", "small"),
        ours=True,
    )
    others = _peer("jax", "small", seconds)
    two = Contestant("jax, two processes", (*others.command, "--processes", "2"))
    return Row(
        "sweep_small", "A sweep, Pendulum 64-64, two cores", "run-steps/s", (ours, two), cores=2
    )


def _samples(seconds: float) -> Row:
    contestants = [
        _ours(
            f"ours, n = {n}",
            "paper",
            seconds,
            "fp32",
            "trainer.device=cpu",
            f"algo.num_sampled_action={n}",
        )
        for n in SAMPLE_COUNTS
    ]
    title = "Training by num_sampled_action n, the paper's sizes, fp32, CPU"
    return Row("samples", title, "steps/s", tuple(contestants))


def _acting(name: str, title: str, mode: str, unit: str, loop: str) -> Row:
    def acting(mode: str, precision: str) -> tuple[str, ...]:
        return _script("acting", mode, "trainer.device=cpu", _precision(precision))

    ours = [
        Contestant(f"ours {p}", acting(mode, p), ours=True, precision=p) for p in ("fp32", "bf16")
    ]
    contestants = (*ours, Contestant(loop, acting(f"{mode}-loop", "fp32")))
    return Row(name, title, unit, contestants, higher_is_better=False)


def _episodes() -> Row:
    title = "Evaluation: 10 episodes of Hopper-v5, 100 sampled actions, the paper's sizes"
    return _acting("evaluation", title, "episodes", "us/env step", "one state at a time")


def _forward() -> Row:
    title = "BCQPolicy.forward on 256 observations, 100 sampled actions, the paper's sizes"
    return _acting("forward", title, "forward", "us/observation", "row by row")


def _online(seconds: float) -> Row:
    contestants = [
        Contestant(
            f"ours {p}",
            _script("online", "--seconds", str(seconds), _precision(p)),
            ours=True,
            precision=p,
        )
        for p in ("fp32", "bf16")
    ]
    title = "An agent learning online: DDPG of the paper's sizes in Hopper-v5"
    return Row("online", title, "env steps/s", tuple(contestants))


def _first_step() -> Row:
    contestant = Contestant("ours", _script("startup", "first-step"), ours=True)
    title = "Start-up: from the command to the first training step, cached Pendulum, W&B offline"
    return Row("startup", title, "s", (contestant,), higher_is_better=False)


def _help() -> Row:
    contestant = Contestant("ours", _script("startup", "help"), ours=True)
    return Row("help", "bcq_exp train --help", "s", (contestant,), higher_is_better=False)


def _gemm() -> Row:
    contestants = [
        Contestant(
            f"{kind} {rows}x750x750",
            _script("gemm", kind, "--rows", str(rows)),
            precision=kind.partition("-")[0],
        )
        for rows in GEMM_ROWS
        for kind in ("fp32-default", "fp32-onednn", "bf16")
    ]
    return Row("gemm", "This machine's matrix products", "GFLOP/s", tuple(contestants))


def _train_gpu(name: str, title: str, size: str, seconds: float, *, bf16: bool = False) -> Row:
    precisions = ("fp32", "tf32", "bf16") if bf16 else ("fp32", "tf32")
    ours = [_ours(f"ours {p}", size, seconds, p, CUDA) for p in precisions]
    eager = _ours("plain PyTorch fp32", size, seconds, "fp32", CUDA, "trainer.engine=eager")
    peers = [_peer("jax", size, seconds, precision) for precision in precisions]
    return Row(name, title, "steps/s", (*ours, replace(eager, ours=False), *peers), skip=_no_gpu)


def _sweep_gpu(seconds: float) -> Row:
    contestants = [
        Contestant(
            f"ours, 27 runs as one stack, {size} {p}",
            _script("sweep", "--seconds", str(seconds), "--size", size, CUDA, _precision(p)),
        )
        for size, p in (("small", "fp32"), ("paper", "tf32"), ("paper", "bf16"))
    ]
    return Row("sweep_gpu", "A sweep, GPU", "run-steps/s", tuple(contestants), skip=_no_gpu)


def _online_gpu(seconds: float) -> Row:
    contestants = [
        Contestant(f"ours {p}", _script("online", "--seconds", str(seconds), CUDA, _precision(p)))
        for p in ("fp32", "bf16")
    ]
    title = "An agent learning online: DDPG of the paper's sizes in Hopper-v5, GPU"
    return Row("online_gpu", title, "env steps/s", tuple(contestants), skip=_no_gpu)


def _precision(name: str) -> str:
    return f"trainer.precision={name}"


def _no_gpu() -> str | None:
    import torch

    return None if torch.cuda.is_available() else "no GPU"
