"""The paper's encoder without its deltas: every token is rounded with the bin of its layer.

All else is as in `cachegen.codec.paper`: scales for each token, bins that grow with depth, a table
for every channel, learned from the same samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from cachegen.bitstream.format import MAX_BYTES, pack, unpack
from cachegen.codec import matrix
from cachegen.codec.blocks import decode_block, encode_block
from cachegen.codec.encoded import blank_chunk
from cachegen.codec.levels import EncodingLevel
from cachegen.codec.paper import bins
from cachegen.codec.symbols import clipped_symbols, quantise, to_integers, to_symbols
from cachegen.codec.tables import MARGIN, histograms, table_frequencies
from cachegen.codec.vectors import bfloat16_above, from_bits, largest, to_bits
from cachegen.cores import available_cores
from cachegen.evaluation.coder import Coder, Tokens
from cachegen.kvcache import Geometry, KVCache

METHOD = "paper without deltas"


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """What a coder rounds and codes with.

    Attributes:
        geometry: of the caches.
        bins: float32 (planes,).
        frequencies: uint16 (channels of all planes, 256).
    """

    geometry: Geometry
    bins: np.ndarray
    frequencies: np.ndarray

    @property
    def widths(self) -> list[int]:
        """Channels of each plane."""
        return [plane.width for plane in self.geometry.planes]

    @property
    def table_ids(self) -> np.ndarray:
        """A table for every channel."""
        return np.arange(len(self.frequencies))


def coder(samples: Sequence[KVCache], *, step: float) -> Coder:
    """A coder whose bins are so many times the paper's.

    Args:
        samples: caches of calibration text, of which tables are learned.
        step: multiplier of the bins.
    """
    geometry = samples[0].geometry
    own = bins(geometry, step)
    counts = np.zeros((geometry.values_per_token, 256), dtype=np.int64)
    for kv in samples:
        planes = (histograms(clipped_symbols(found)) for _, found in _rounded(kv, own))
        counts += np.concatenate(list(planes))
    setting = Setting(geometry, own, table_frequencies(counts, margin=MARGIN, escape=True))
    return Coder(METHOD, f"{step:g}", partial(_encode, setting), partial(_decode, setting))


def _rounded(kv: KVCache, own: np.ndarray) -> Iterator[tuple[torch.Tensor, np.ndarray]]:
    """Of every plane the scales float32 (tokens, 1), and the integers int32 (tokens, channels)."""
    for plane, width in zip(kv.planes(), own.tolist(), strict=True):
        rows = matrix.to_rows(plane).flatten(1)
        scales = bfloat16_above(largest(rows))
        scaled = rows / torch.where(scales > 0, scales, 1.0)
        yield scales, quantise(scaled / width, rounding=0.5)


def _encode(setting: Setting, kv: KVCache, tokens: Tokens) -> bytes:
    del tokens
    scales, planes = zip(*_rounded(kv, setting.bins), strict=True)
    ids, tables = setting.table_ids, setting.frequencies
    symbols, escapes = to_symbols(np.concatenate(planes, axis=1), ids, tables)
    block = encode_block(symbols, escapes, ids, tables, threads=available_cores())
    chunk = replace(
        blank_chunk(kv, EncodingLevel("high", "paper")),
        blocks=(block,),
        arrays={"scales": np.concatenate([to_bits(one) for one in scales])},
    )
    return pack(chunk)


def _decode(setting: Setting, data: bytes, tokens: Tokens) -> KVCache:
    chunk = unpack(data, max_bytes=MAX_BYTES)
    (block,) = chunk.blocks
    decoded = decode_block(block, setting.table_ids, setting.frequencies, threads=available_cores())
    every = to_integers(decoded, block.escapes, setting.widths)
    scales = from_bits(chunk.arrays["scales"]).view(-1, len(tokens), 1)
    planes = matrix.empty_planes(setting.geometry, chunk.tokens_held)
    for plane, rows, scale, width in zip(planes, every, scales, setting.bins.tolist(), strict=True):
        heads, num_tokens, dim = plane.shape
        matrix.fill_plane(plane, (rows * width * scale).view(num_tokens, heads, dim))
    return KVCache(tuple(planes[::2]), tuple(planes[1::2]), len(tokens))
