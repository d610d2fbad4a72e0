"""The definition of synthesis, in NumPy: rows of coefficients become planes of a cache.

Sums of products are integers modulo 2**32, and every float32 operation rounds on its own, so that
all kernel sets give the same bits.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cachegen.kernels.layout import Lookup, PlaneLayout, PlaneRotation
from cachegen.kernels.synthesis_checks import check_synthesise, check_tail

# FORMAT.md, section 6: float16 saturates at its largest finite number.
LARGEST_FLOAT16 = np.float32(65504)


def synthesise(
    coefficients: NDArray[np.int16],
    basis: NDArray[np.int16],
    scales: NDArray[np.float32],
    means: NDArray[np.float32],
    out: NDArray[Any],
    *,
    lookups: Sequence[Lookup] = (),
    planes: Sequence[PlaneLayout],
    rotations: Sequence[PlaneRotation],
    num_tokens: int,
    tokens: NDArray[np.int64],
    depths: NDArray[np.int64] | None = None,
    multipliers: NDArray[np.int64] | None = None,
    tail: int | None = None,
    dtype: str,
    threads: int = 1,
) -> None:
    """Write (multipliers * (coefficients @ basis) + lookups) * scales + means into `out`.

    The columns are those of the planes side by side. Row r is token tokens[r] of planes
    (heads, num_tokens, dim); `out` holds values of `dtype`, 16-bit ones as their bits. Of row r
    only the first depths[r] coefficients count, all without `depths`. `tail` only promises that
    the basis is of 8 bits from that row on.
    """
    check_synthesise(
        coefficients,
        basis,
        scales,
        means,
        out,
        lookups=lookups,
        planes=planes,
        rotations=rotations,
        num_tokens=num_tokens,
        tokens=tokens,
        depths=depths,
        multipliers=multipliers,
        tail=tail,
        dtype=dtype,
        threads=threads,
    )
    if tail is not None and len(coefficients):
        check_tail(basis[tail : len(basis) if depths is None else depths.max(initial=0)])
    if depths is not None:
        leading = np.arange(len(basis)) < depths[:, None]
        coefficients = np.where(leading, coefficients, np.int16(0))
    sums = coefficients.astype(np.uint32) @ basis.astype(np.uint32)
    if multipliers is not None:
        sums *= multipliers.astype(np.uint32)[:, None]
    for lookup in lookups:
        sums += _looked_up(lookup)
    with np.errstate(over="ignore", invalid="ignore"):
        rows = sums.view(np.int32).astype(np.float32) * scales + means
        column = 0
        for plane in planes:
            values = rows[:, column : column + plane.width].reshape(-1, plane.heads, plane.dim)
            if plane.rotation is not None:
                _turn(values, rotations[plane.rotation])
            view = out[plane.offset : plane.offset + num_tokens * plane.width]
            view = view.reshape(plane.heads, num_tokens, plane.dim)
            view[:, tokens] = _rounded(values, dtype).swapaxes(0, 1)
            column += plane.width


def _looked_up(lookup: Lookup) -> NDArray[np.uint32]:
    """What a lookup adds to the sums (rows, columns)."""
    known = (lookup.ids >= 0) & (lookup.ids < len(lookup.table))
    features = np.zeros((len(known), lookup.table.shape[1]), dtype=np.uint32)
    features[known] = lookup.table[lookup.ids[known]].astype(np.uint32)
    return features @ lookup.basis.astype(np.uint32)


def _turn(values: NDArray[np.float32], by: PlaneRotation) -> None:
    """Rotate values (rows, heads, dim) in place."""
    pairs = by.cos.shape[1]
    turned = values[:, :, : 2 * pairs]
    if by.interleaved:
        first, second = turned[:, :, 0::2], turned[:, :, 1::2]
    else:
        first, second = turned[:, :, :pairs], turned[:, :, pairs:]
    cos, sin = by.cos[:, None], by.sin[:, None]
    first[:], second[:] = first * cos - second * sin, second * cos + first * sin


def _rounded(values: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """To the nearest, ties to even; float16 has no infinities, and a NaN becomes its largest."""
    if dtype == "float32":
        return values
    if dtype == "float16":
        values = np.fmax(np.fmin(values, LARGEST_FLOAT16), -LARGEST_FLOAT16)
        return values.astype(np.float16).view(np.uint16)
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
