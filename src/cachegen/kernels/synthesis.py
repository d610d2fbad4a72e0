"""The definition of synthesis, in NumPy: rows of coefficients become planes of a cache.

Sums of products are integers modulo 2**32, and every float32 operation rounds on its own, so that
all kernel sets give the same bits.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cachegen.kernels.checks import check_synthesise, check_tail
from cachegen.kernels.layout import Lookup, PlaneRotation, Synthesis

# FORMAT.md, section 6: float16 saturates at its largest finite number.
LARGEST_FLOAT16 = np.float32(65504)


def synthesise(work: Synthesis, out: NDArray[Any], *, threads: int = 1) -> None:
    """Write planes into `out`, one array of float32 or of the bits of 16-bit values."""
    check_synthesise(work, out, threads=threads)
    if work.tail is not None and len(work.coefficients):
        deepest = len(work.basis) if work.depths is None else work.depths.max(initial=0)
        check_tail(work.basis[work.tail : deepest])
    with np.errstate(over="ignore", invalid="ignore"):
        rows = _sums(work).view(np.int32).astype(np.float32) * work.scales + work.means
        column = 0
        for plane in work.planes:
            values = rows[:, column : column + plane.width].reshape(-1, plane.heads, plane.dim)
            if plane.rotation is not None:
                _turn(values, work.rotations[plane.rotation])
            view = out[plane.offset : plane.offset + work.num_tokens * plane.width]
            view = view.reshape(plane.heads, work.num_tokens, plane.dim)
            view[:, work.tokens] = _rounded(values, work.dtype).swapaxes(0, 1)
            column += plane.width


def _sums(work: Synthesis) -> NDArray[np.uint32]:
    """Integers (rows, columns): multipliers * (coefficients @ basis) + lookups."""
    coefficients = work.coefficients
    if work.depths is not None:
        leading = np.arange(len(work.basis)) < work.depths[:, None]
        coefficients = np.where(leading, coefficients, np.int16(0))
    sums = coefficients.astype(np.uint32) @ work.basis.astype(np.uint32)
    if work.multipliers is not None:
        sums *= work.multipliers.astype(np.uint32)[:, None]
    for lookup in work.lookups:
        sums += _looked_up(lookup)
    return sums


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
