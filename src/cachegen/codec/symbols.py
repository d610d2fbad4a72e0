"""Quantised values as bytes: symbol 0 is the escape, symbol s > 0 stands for s - 128."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from cachegen.errors import BitstreamError

# FORMAT.md, sections 3 and 6.
ESCAPE = 0
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
    symbols: np.ndarray, escapes: np.ndarray, widths: list[int]
) -> Iterator[torch.Tensor]:
    """The integers behind symbols and escapes, plane after plane: float32 (rows, width).

    Args:
        symbols: uint8 (rows, coefficients).
        escapes: the values of all escape symbols, row-major.
        widths: coefficients of each plane.

    Raises:
        BitstreamError: other than one escape value for each escape symbol.
    """
    stops = np.cumsum(widths)
    own_escapes = _split_escapes(symbols, escapes, stops)
    for width, stop, values in zip(widths, stops, own_escapes, strict=True):
        own = symbols[:, stop - width : stop]
        integers = torch.from_numpy(own).to(torch.float32).sub_(CENTER)
        if len(values):
            places = torch.from_numpy(np.flatnonzero(own == ESCAPE))
            integers.view(-1)[places] = torch.from_numpy(values.astype(np.float32))
        yield integers


def _split_escapes(symbols: np.ndarray, escapes: np.ndarray, stops: np.ndarray) -> list[np.ndarray]:
    """The escapes of each plane, row-major in the plane."""
    places = np.flatnonzero(symbols == ESCAPE)
    if len(places) != len(escapes):
        raise BitstreamError(f"expected {len(places)} escapes, got {len(escapes)}", field="escapes")
    if not len(places):
        return [escapes] * len(stops)
    planes = np.searchsorted(stops, places % symbols.shape[1], side="right")
    counts = np.bincount(planes, minlength=len(stops))
    return np.split(escapes[np.argsort(planes, kind="stable")], np.cumsum(counts)[:-1])
