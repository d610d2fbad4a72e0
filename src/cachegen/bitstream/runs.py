"""The geometry table: runs of layers that look the same (FORMAT.md, section 1)."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

import torch

from cachegen.bitstream.reader import ByteReader
from cachegen.codec.encoded import EncodedChunk
from cachegen.kvcache import Geometry, PlaneShape

# FORMAT.md, section 1.
RUN_SIZE = 24
MAX_LAYERS = 4096
MAX_VALUES_PER_TOKEN = 2**24

_RUN = struct.Struct("<IIIIHH4x")


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one layer holds.

    Attributes:
        key: shape of its keys.
        value: shape of its values.
        tokens_held: how many of the last tokens it holds.
    """

    key: PlaneShape
    value: PlaneShape
    tokens_held: int

    @property
    def values_per_token(self) -> int:
        """Values of one token in keys and values together."""
        return self.key.width + self.value.width


def layers_of(chunk: EncodedChunk) -> tuple[LayerShape, ...]:
    """The layers of a chunk, in order."""
    planes = chunk.geometry.planes
    return tuple(
        LayerShape(key, value, held)
        for key, value, held in zip(planes[::2], planes[1::2], chunk.tokens_held, strict=True)
    )


def geometry_of(layers: Iterable[LayerShape], dtype: torch.dtype) -> Geometry:
    """The inverse of `layers_of`, without the tokens held."""
    planes = tuple(plane for layer in layers for plane in (layer.key, layer.value))
    return Geometry(planes, dtype)


def runs_to_bytes(layers: tuple[LayerShape, ...]) -> bytes:
    """The geometry table of these layers."""
    return b"".join(_run_to_bytes(shape, len(list(run))) for shape, run in groupby(layers))


def read_runs(reader: ByteReader, num_runs: int, *, num_tokens: int) -> tuple[LayerShape, ...]:
    """The layers that a geometry table describes.

    Raises:
        BitstreamError: too many layers, an empty layer, or runs that should be one.
    """
    layers: list[LayerShape] = []
    total = 0
    for index in range(num_runs):
        field = f"geometry[{index}]"
        count, shape = _read_run(reader, field, num_tokens=num_tokens)
        if layers and layers[-1] == shape:
            reader.fail("equal to the run before it; they must be one", field)
        if len(layers) + count > MAX_LAYERS:
            reader.fail(f"more than {MAX_LAYERS} layers", field)
        total += count * shape.values_per_token
        if not 0 < shape.values_per_token <= total <= MAX_VALUES_PER_TOKEN:
            reader.fail(
                f"expected 1 to {MAX_VALUES_PER_TOKEN} values per token in all layers, got "
                f"{total}, {shape.values_per_token} of them in each layer of this run",
                field,
            )
        layers += [shape] * count
    return tuple(layers)


def _run_to_bytes(shape: LayerShape, count: int) -> bytes:
    key, value = shape.key, shape.value
    return _RUN.pack(count, key.dim, value.dim, shape.tokens_held, key.heads, value.heads)


def _read_run(reader: ByteReader, field: str, *, num_tokens: int) -> tuple[int, LayerShape]:
    count = reader.unsigned(4, f"{field}.layers", low=1, high=MAX_LAYERS)
    key_dim = reader.unsigned(4, f"{field}.key_dim")
    value_dim = reader.unsigned(4, f"{field}.value_dim")
    held = reader.unsigned(4, f"{field}.tokens_held", high=num_tokens)
    key_heads = reader.unsigned(2, f"{field}.key_heads")
    value_heads = reader.unsigned(2, f"{field}.value_heads")
    reader.zeros(4, f"{field}.padding")
    key, value = PlaneShape(key_heads, key_dim), PlaneShape(value_heads, value_dim)
    return count, LayerShape(key, value, held)
