"""Measures the best rate (GFLOP/s) of a matrix product of (rows, 750) and (750, 750).

.venv/bin/python -m tests.bench.gemm {fp32-default,fp32-onednn,bf16} --rows 1000
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

from tests.bench import timing

WIDTH = 750


def default(x: Tensor, weight: Tensor) -> Tensor:
    """torch's own path: MKL for float32 on a CPU, oneDNN for bfloat16."""
    return torch.nn.functional.linear(x, weight)


def onednn(x: Tensor, weight: Tensor) -> Tensor:
    """oneDNN, whatever the type."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


KINDS: dict[str, tuple[torch.dtype, Callable[[Tensor, Tensor], Tensor]]] = {
    "fp32-default": (torch.float32, default),
    "fp32-onednn": (torch.float32, onednn),
    "bf16": (torch.bfloat16, default),
}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=2.0)
    args = parser.parse_args()
    dtype, product = KINDS[args.kind]
    x, weight = (torch.randn(n, WIDTH).to(dtype) for n in (args.rows, WIDTH))
    seconds = timing.best_seconds(lambda: product(x, weight), args.seconds)
    timing.report(value=2e-9 * args.rows * WIDTH**2 / seconds, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
