"""Eight-bit vectors: each head's vector of a token scaled by its own largest magnitude."""

from __future__ import annotations

import numpy as np
import torch

from cachegen.codec.symbols import Unrepresentable
from cachegen.errors import BitstreamError

# FORMAT.md, `packed`: codes are within -127 to 127.
LIMIT = 127
# The bits of infinity in bfloat16.
_INFINITE = 0x7F80


def largest(vectors: torch.Tensor) -> torch.Tensor:
    """The largest magnitude of each vector (..., dim), (..., 1); 0 where the vectors are empty."""
    if not vectors.shape[-1]:
        return vectors.new_zeros((*vectors.shape[:-1], 1))
    return vectors.abs().amax(dim=-1, keepdim=True)


def bfloat16_above(values: torch.Tensor) -> torch.Tensor:
    """The nearest bfloat16 not below non-negative finite float32 values, as float32."""
    bits = values.view(torch.int32)
    return ((bits + 0xFFFF) & ~0xFFFF).view(torch.float32)


def to_bits(scales: torch.Tensor) -> np.ndarray:
    """Float32 numbers that are bfloat16 exactly, as uint16 bits, flat."""
    return (
        (scales.contiguous().view(torch.int32) >> 16)
        .to(torch.int16)
        .numpy()
        .view(np.uint16)
        .ravel()
    )


def check_scales(bits: np.ndarray) -> None:
    """Refuse bits of bfloat16 that are no scales.

    Raises:
        BitstreamError: a scale is negative, infinite or NaN.
    """
    if len(bits) and bits.max() >= _INFINITE:
        raise BitstreamError("expected finite numbers that are not negative", field="scales")


def from_bits(bits: np.ndarray) -> torch.Tensor:
    """The inverse of `to_bits`: float32 (n,)."""
    return torch.from_numpy((bits.astype(np.uint32) << 16).view(np.float32))


def quantise_vectors(vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales float32 (..., 1) and codes int8 (..., dim) of vectors (..., dim).

    Raises:
        Unrepresentable: a value is NaN or infinite.
    """
    if not bool(torch.isfinite(vectors).all()):
        raise Unrepresentable
    rows = vectors.to(torch.float32)
    scales = bfloat16_above(largest(rows) / LIMIT)
    divisor = torch.where(scales > 0, scales, 1.0)
    return scales, (rows / divisor).round_().to(torch.int8)


def dequantise_vectors(scales: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Float32 vectors (..., dim)."""
    return codes.to(torch.float32).mul_(scales)
