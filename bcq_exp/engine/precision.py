"""Resolve ``trainer.precision`` on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch

from bcq_exp.errors import UserError


@dataclass(frozen=True)
class Precision:
    """The types of a run's numbers.

    Args:
        dtype: the type of parameters, losses, targets and optimizer state.
        compute_dtype: the type of matrix products inside networks; ``None`` is ``dtype``.
        float32_products: torch's name for how float32 products may be computed.
    """

    dtype: torch.dtype = torch.float32
    compute_dtype: torch.dtype | None = None
    float32_products: Literal["highest", "high", "medium"] = "highest"

    def __str__(self) -> str:
        """The value of ``trainer.precision`` that it is."""
        if self.compute_dtype is not None:
            return "bf16"
        if self.dtype == torch.float64:
            return "fp64"
        return "tf32" if self.float32_products == "high" else "fp32"

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Apply torch's process-wide setting of float32 products inside the block."""
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self.float32_products)
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def resolve_precision(name: str, device: torch.device, *, are_wide: bool) -> Precision:
    """Resolve a precision; ``auto`` is bf16 if that is fast and the networks are wide.

    Raises:
        UserError: for tf32 without a CUDA device.
    """
    if name == "auto":
        name = "bf16" if has_fast_bf16(device) and are_wide else "fp32"
    if name == "fp64":
        return Precision(torch.float64)
    if name == "bf16":
        return Precision(compute_dtype=torch.bfloat16)
    if name == "tf32":
        if device.type != "cuda":
            raise UserError(f"trainer.precision=tf32: needs a CUDA device, not {device}; use fp32")
        return Precision(float32_products="high")
    if device.type == "cpu" and are_wide and onednn_float32_is_true():
        return Precision(float32_products="medium")
    return Precision()


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 products have hardware support: AVX512-BF16, AMX, a CUDA card."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@cache
def onednn_float32_is_true() -> bool:
    """Whether oneDNN's "medium" products are as exact as float32.

    On AMD processors they are, and faster than MKL's; with AMX units oneDNN would use bfloat16.
    Tested by one product against float64, where the error of bfloat16 is 1e-3 or more.
    """
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    with Precision(float32_products="medium").in_force():
        error = (a @ b - exact).abs().max() / exact.abs().max()
    return float(error) < 1e-6
