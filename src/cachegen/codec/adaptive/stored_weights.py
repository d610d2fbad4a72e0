"""The weights of a chunk's groups, as codec `adaptive` stores them (FORMAT.md, section 6)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cachegen.codec.adaptive.predict import Predicted
from cachegen.codec.adaptive.triangle import restore, scale
from cachegen.codec.blocks import check_escapes, decode_block
from cachegen.codec.encoded import EncodedChunk, take
from cachegen.codec.matrix import Part
from cachegen.codec.model import CodingModel
from cachegen.codec.symbols import CENTER
from cachegen.errors import BitstreamError

# FORMAT.md, section 2.
WIDEST = 1024
COARSEST = 16.0
# FORMAT.md, section 6. Each costs some 0.1 ms, however narrow it is; encoders make groups of 16 or
# more of at most 2^24 coefficients.
MOST_GROUPS = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """What predicts a chunk.

    Attributes:
        width: coefficients of a group.
        step: of the weights.
        spreads: uint8 (coefficients,).
        flat: int8, the weights of all groups of the part that holds all tokens.
    """

    width: int
    step: float
    spreads: torch.Tensor
    flat: torch.Tensor

    def restored(
        self, integers: Iterator[torch.Tensor], columns: np.ndarray
    ) -> Iterator[torch.Tensor]:
        """Groups of float32 integers (rows, width) in units of the step.

        Args:
            integers: group after group.
            columns: the part's coefficients.
        """
        first, weight = 0, 0
        for whole in integers:
            size = whole.shape[1]
            own = self.spreads[torch.from_numpy(columns[first : first + size])]
            square = torch.zeros((size, size))
            piece = self.flat[weight : weight + _below(size)]
            square[tuple(torch.tril_indices(size, size, -1))] = piece.to(torch.float32)
            yield restore(whole, scale(square, own, self.step))
            first, weight = first + size, weight + len(piece)


def pack_weights(
    layout: tuple[Part, ...], found: Sequence[Predicted], num_coefficients: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The matrix of all weights, group after group, and the arrays that go with it."""
    spreads = np.zeros(num_coefficients, dtype=np.uint8)
    [(part, batches)] = [
        (part, one.triangles) for part, one in zip(layout, found, strict=True) if one.triangles
    ]
    spreads[part.columns] = torch.cat([one.spreads.flatten() for one in batches]).numpy()
    flat = []
    for one in batches:
        size = one.spreads.shape[1]
        targets, sources = torch.tril_indices(size, size, -1)
        flat.append(one.weights[:, targets, sources].flatten().numpy())
    weights = np.concatenate(flat)
    padded = np.pad(weights, (0, -len(weights) % num_coefficients))
    return padded.reshape(-1, num_coefficients), {
        "group": np.array([batches[0].spreads.shape[1]], dtype=np.uint32),
        "weight_step": np.array([batches[0].step], dtype=np.float32),
        "spreads": spreads,
    }


def read_weights(
    chunk: EncodedChunk, layout: tuple[Part, ...], model: CodingModel, *, threads: int
) -> Weights | None:
    """The inverse of `pack_weights`; None where nothing is predicted.

    Raises:
        BitstreamError: arrays or blocks that do not fit the geometry or do not decode.
    """
    num_blocks = len(layout) + ("group" in chunk.arrays)
    if len(chunk.blocks) != num_blocks:
        raise BitstreamError(
            f"expected {num_blocks} blocks, got {len(chunk.blocks)}", field="blocks"
        )
    if "group" not in chunk.arrays:
        return None
    count = chunk.geometry.values_per_token
    width = int(take(chunk.arrays, "group", count=1)[0])
    step = float(take(chunk.arrays, "weight_step", count=1)[0])
    spreads = take(chunk.arrays, "spreads", count=count)
    if not 1 <= width <= WIDEST:
        raise BitstreamError(f"expected groups of 1 to {WIDEST}, got {width}", field="group")
    if not 0 < step <= COARSEST:
        raise BitstreamError(f"expected 0 < step <= {COARSEST}, got {step}", field="weight_step")
    predicted = [part for part in layout if part.num_rows == chunk.num_tokens]
    if any(len(part.columns) > width * MOST_GROUPS for part in predicted):
        raise BitstreamError(f"expected at most {MOST_GROUPS} groups of {width}", field="group")
    total = sum(_below_groups(len(part.columns), width) for part in predicted)
    block = chunk.blocks[-1]
    block.expect(-(-total // count), count)
    if len(block.escapes):
        raise BitstreamError("expected weights of at most 127, got escapes", field="escapes")
    ids = np.full(count, len(model.frequencies) - 1)
    decoded = decode_block(block, ids, model.frequencies, threads=threads)
    check_escapes(decoded, block.escapes)
    flat = torch.from_numpy((decoded.columns(0, count) ^ CENTER).view(np.int8)).flatten()
    if bool(flat[total:].any()):
        raise BitstreamError("expected zeros behind the last weight", field="words")
    return Weights(width, step, torch.tensor(spreads), flat[:total])


def _below(size: int) -> int:
    """Entries below the diagonal of a square."""
    return size * (size - 1) // 2


def _below_groups(num_coefficients: int, width: int) -> int:
    """As `_below`, of all groups of a part; the last may be narrower."""
    full, left = divmod(num_coefficients, width)
    return full * _below(width) + _below(left)
