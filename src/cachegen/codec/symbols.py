"""Quantised values as bytes: symbol 0 is the escape, symbol s > 0 stands for s - 128."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from cachegen.codec.blocks import ESCAPE, DecodedBlock, check_escapes

# FORMAT.md, section 3: the symbol of zero; section 6: so many steps cannot be coded with loss.
CENTER = 128
LARGEST = 2**30
# FORMAT.md, section 6. For `transform` 0.46 was measured best (docs/LOG.md, 2026-11-21).
DEAD_ZONE = 0.45


class Unrepresentable(ValueError):
    """Values that a lossy level cannot code."""

    def __init__(self) -> None:
        """Say why."""
        super().__init__("the cache holds NaN, infinities or values far beyond the step")


def quantise(scaled: torch.Tensor, *, rounding: float = DEAD_ZONE) -> np.ndarray:
    """Round float32 values, in units of the step, to int32: the floor of magnitude + `rounding`.

    Half is rounding to nearest; less widens the interval that becomes zero.

    Raises:
        Unrepresentable: a value is not finite or not an integer of 30 bits.
    """
    magnitude = scaled.abs()
    if magnitude.numel() and not bool((magnitude.max() < LARGEST).item()):
        raise Unrepresentable
    whole = magnitude.add_(rounding).floor_()
    return whole.copysign_(scaled).to(torch.int32).numpy()


def to_symbols(
    integers: np.ndarray, table_ids: np.ndarray, frequencies: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Symbols uint8 (rows, coefficients) and the escapes int32, for these tables."""
    usable = frequencies[:, 1:] > 0
    low = (usable.argmax(axis=1) + 1 - CENTER).astype(np.int32)
    high = (usable.shape[1] - usable[:, ::-1].argmax(axis=1) - CENTER).astype(np.int32)
    outside = (integers < low[table_ids]) | (integers > high[table_ids])
    symbols = (integers + CENTER).astype(np.uint8)
    if not outside.any():
        return symbols, np.empty(0, dtype=np.int32)
    symbols[outside] = ESCAPE
    return symbols, integers[outside]


def clipped_symbols(integers: np.ndarray) -> np.ndarray:
    """Symbols as a table that covers the whole alphabet would give them, for counting."""
    inside = np.abs(integers) < CENTER
    return np.where(inside, integers + CENTER, ESCAPE).astype(np.uint8)


def to_integers(
    decoded: DecodedBlock, escapes: np.ndarray, widths: Iterable[int]
) -> Iterator[torch.Tensor]:
    """The integers behind symbols and escapes, plane after plane: float32 (rows, width).

    Args:
        decoded: the symbols of all planes.
        escapes: the values of all escape symbols, row-major.
        widths: coefficients of each plane.

    Raises:
        BitstreamError: other than one escape value for each escape symbol.
    """
    following = _first_escapes(decoded, escapes)
    for symbols in decoded.split(widths):
        integers = torch.from_numpy(symbols).to(torch.float32).sub_(CENTER)
        if len(escapes):
            _put_escapes(integers.numpy(), symbols, escapes, following)
        del symbols
        yield integers


def _first_escapes(decoded: DecodedBlock, escapes: np.ndarray) -> np.ndarray:
    """Where the escapes of each row begin: int64 (rows,)."""
    counts = check_escapes(decoded, escapes)
    first: np.ndarray = np.cumsum(counts) - counts
    return first


def _put_escapes(
    integers: np.ndarray, symbols: np.ndarray, escapes: np.ndarray, following: np.ndarray
) -> None:
    """Write a plane's escapes over its integers; `following` are those of each row still to come.

    As many indices are held at once as the plane has escapes, not as the block has.
    """
    is_escape = symbols == ESCAPE
    counts = is_escape.sum(axis=1)
    before = np.cumsum(counts) - counts
    indices = np.repeat(following - before, counts)
    indices += np.arange(len(indices))
    integers[is_escape] = escapes[indices]
    following += counts
