"""Asymmetric grids: a group's values between its least and its largest one, evenly spaced."""

from __future__ import annotations

import torch

Dims = int | tuple[int, ...]


def quantise(
    values: torch.Tensor, dims: Dims, levels: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes uint8 below `levels`, and the float16 step and least value of every group.

    Codes fit the rounded step and least value, so that rounding these shifts nothing.

    Args:
        values: float32.
        dims: those that a group extends over; kept, with size 1, in steps and least values.
        levels: at most 256.
    """
    least, most = values.amin(dims, keepdim=True), values.amax(dims, keepdim=True)
    low = _half(least)
    step = _half((most - low.float()) / (levels - 1))
    divisor = torch.where(step > 0, step, 1.0).float()
    codes = ((values - low.float()) / divisor).round_().clamp_(0, levels - 1)
    return codes.to(torch.uint8), step, low


def dequantise(codes: torch.Tensor, step: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
    """Float32 values."""
    return codes.float() * step.float() + low.float()


def _half(values: torch.Tensor) -> torch.Tensor:
    return values.clamp(-65504.0, 65504.0).half()
