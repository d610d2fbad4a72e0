"""A coder in the style of KVServe: Hadamard rotation, levels mixed by head, grids, an ANS coder.

KVServe, SIGCOMM 2026, arXiv 2605.13734; settings are those of its code (hpdps-group/KVServe). Each
head's vectors are multiplied by random signs and rotated by Hadamard matrices, in pieces of powers
of two; keys as the model caches them. Heads are of two classes, 30% of all in the lower one. Of
keys each channel has a grid over all tokens; of values each token has one over all heads of a
class. Grids have so many levels, 4 in the higher class for 3 in the lower one (published: 16 and
12); codes go to an ANS coder, here that of the package `constriction`. Step and least value of a
grid are float16.

Which heads are in the lower class: published are DuoAttention's scores (arXiv 2410.10819), guessed
from mean queries and keys of a calibration text. Here attention itself is asked: of the last 64
queries of calibration texts, the weight on each token times how far it lies back, sinks left out;
heads that look back least are in the lower class.

In its favour: the coder's tables, one for each plane and class, are learned from calibration texts
and are not counted (published: nvCOMP's are made and stored for every 64 KiB); steps and rotations
are not rounded to bfloat16; its metadata are left out. To its disadvantage: its search over axes,
classes and codecs for every dataset is left out; one family of settings makes the curve.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import constriction
import numpy as np
import torch

from cachegen.codec import matrix
from cachegen.evaluation.coder import Coder, Tokens
from cachegen.evaluation.methods.attention import from_last
from cachegen.evaluation.methods.grids import dequantise, quantise
from cachegen.evaluation.methods.planes import Reader, rounded, to_bytes
from cachegen.kvcache import Geometry, KVCache, PlaneShape

# Levels of the higher class.
LEVELS = (128, 64, 32, 16, 8, 4)
LOW_SHARE = 0.3
_SEED = 0x3333
_SINKS = 4
_QUERIES = 64
_Tables = dict[tuple[int, int], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """A point of the curve.

    Attributes:
        geometry: of the caches.
        rotations: of every plane float32 (heads, dim, dim), orthogonal.
        classes: of every plane the heads of the higher class, then those of the lower one.
        levels: of the classes.
    """

    geometry: Geometry
    rotations: tuple[torch.Tensor, ...]
    classes: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    levels: tuple[int, int]


def kvserve_coders(
    samples: Sequence[KVCache], scores: torch.Tensor, *, levels: Sequence[int] = LEVELS
) -> Iterator[Coder]:
    """A coder for each number of levels of the higher class.

    Args:
        samples: caches of calibration text, of which tables are learned.
        scores: float32 (heads of keys, all layers,): how far back each looks.
        levels: of the higher class.
    """
    geometry = samples[0].geometry
    rotations = tuple(rotation(index, plane) for index, plane in enumerate(geometry.planes))
    classes = tuple(heads_of_classes(scores, geometry))
    for high in levels:
        setting = Setting(geometry, rotations, classes, (high, max(2, round(0.75 * high))))
        tables = _tables(setting, samples)
        encode, decode = partial(_encode, setting, tables), partial(_decode, setting, tables)
        yield Coder("kvserve", "-".join(map(str, setting.levels)), encode, decode)


def looking_back(model: Any, texts: Sequence[Tokens]) -> torch.Tensor:
    """How far back heads of keys look, the mean of texts: float32 (heads of all layers,)."""
    found = [_looking_back(model, tokens) for tokens in texts]
    return torch.stack(found).mean(dim=0)


def _looking_back(model: Any, tokens: Tokens) -> torch.Tensor:
    window = min(_QUERIES, len(tokens))
    distances = torch.arange(len(tokens) - 1, -1, -1) / len(tokens)
    distances[:_SINKS] = 0
    layers = from_last(model, tokens, window=window)
    return torch.cat([(layer.mean(dim=1) * distances).sum(dim=1) for layer in layers])


def rotation(index: int, plane: PlaneShape) -> torch.Tensor:
    """Signs, then Hadamard matrices side by side: float32 (heads, dim, dim)."""
    hadamard = _blocks([_hadamard(size) for size in _powers(plane.dim)])
    made = []
    for head in range(plane.heads):
        generator = torch.Generator().manual_seed(_SEED ^ (index // 2 << 16) ^ head)
        signs = torch.randint(0, 2, (plane.dim,), generator=generator) * 2.0 - 1.0
        made.append(signs[:, None] * hadamard)
    return torch.stack(made)


def _powers(number: int) -> list[int]:
    """The powers of two that make a number, largest first."""
    return [1 << bit for bit in reversed(range(number.bit_length())) if number >> bit & 1]


def _hadamard(size: int) -> torch.Tensor:
    found = torch.ones(1, 1)
    pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    while len(found) < size:
        found = torch.kron(pair, found)
    return found / math.sqrt(size)


def _blocks(blocks: list[torch.Tensor]) -> torch.Tensor:
    """Square matrices along the diagonal of one."""
    whole = torch.zeros([sum(map(len, blocks))] * 2)
    first = 0
    for block in blocks:
        stop = first + len(block)
        whole[first:stop, first:stop] = block
        first = stop
    return whole


def heads_of_classes(
    scores: torch.Tensor, geometry: Geometry
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Of every plane the heads of the higher class and those of the lower one."""
    low = torch.zeros(len(scores), dtype=torch.bool)
    low[scores.argsort(stable=True)[: round(LOW_SHARE * len(scores))]] = True
    layers = torch.split(low, [plane.heads for plane in geometry.planes[0::2]])
    for key, value, own in zip(geometry.planes[0::2], geometry.planes[1::2], layers, strict=True):
        if key.heads != value.heads:
            raise ValueError("kvserve expects as many heads of keys as of values in every layer")
        yield from [(torch.nonzero(~own)[:, 0], torch.nonzero(own)[:, 0])] * 2


def _coded(
    setting: Setting, kv: KVCache
) -> Iterator[tuple[tuple[int, int], torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Of every plane and class: which they are, codes (heads, tokens, dim), steps, least values."""
    for index, plane in enumerate(kv.planes()):
        rows = plane.float() @ setting.rotations[index]
        for number, heads in enumerate(setting.classes[index]):
            if len(heads) and rows.numel():
                yield (index, number), *quantise(rows[heads], _dims(index), setting.levels[number])


def _dims(index: int) -> int | tuple[int, int]:
    """Dimensions that a grid extends over: the tokens of keys, heads and channels of values."""
    return 1 if index % 2 == 0 else (0, 2)


def _tables(setting: Setting, samples: Sequence[KVCache]) -> _Tables:
    """A distribution for every plane and class; codes that were not seen count as seen once."""
    counts: dict[tuple[int, int], np.ndarray] = {}
    for kv in samples:
        for key, codes, _, _ in _coded(setting, kv):
            found = np.bincount(codes.numpy().reshape(-1), minlength=setting.levels[key[1]])
            counts[key] = counts.get(key, 1) + found
    return {key: _distribution(seen) for key, seen in counts.items()}


def _distribution(counts: np.ndarray) -> Any:
    shares = (counts / counts.sum()).astype(np.float32)
    return constriction.stream.model.Categorical(shares, perfect=False)


def _encode(setting: Setting, tables: _Tables, kv: KVCache, tokens: Tokens) -> bytes:
    del tokens
    grids, streams = [], []
    for key, codes, step, low in _coded(setting, kv):
        grids += [to_bytes(step), to_bytes(low)]
        streams.append((codes.numpy().reshape(-1).astype(np.int32), tables[key]))
    coder = constriction.stream.stack.AnsCoder()
    for symbols, table in reversed(streams):
        coder.encode_reverse(symbols, table)
    words: np.ndarray = coder.get_compressed().astype("<u4")
    return b"".join(grids) + words.tobytes()


def _decode(setting: Setting, tables: _Tables, data: bytes, tokens: Tokens) -> KVCache:
    geometry, num_tokens = setting.geometry, len(tokens)
    reader, pending = Reader(data), []
    for index, plane in enumerate(geometry.planes):
        for number, heads in enumerate(setting.classes[index]):
            if len(heads) and num_tokens * plane.dim:
                own = (len(heads), 1, plane.dim) if index % 2 == 0 else (1, num_tokens, 1)
                step, low = (reader.plane(own, torch.float16) for _ in range(2))
                pending.append(((index, number), heads, step, low))
    words = np.frombuffer(reader.rest(), "<u4").astype(np.uint32)
    coder = constriction.stream.stack.AnsCoder(words)
    rows = [torch.zeros(plane.heads, num_tokens, plane.dim) for plane in geometry.planes]
    for key, heads, step, low in pending:
        shape = (len(heads), num_tokens, geometry.planes[key[0]].dim)
        codes = coder.decode(tables[key], int(np.prod(shape)))
        found = dequantise(torch.from_numpy(codes.reshape(shape)), step, low)
        rows[key[0]][heads] = found
    if not coder.is_empty():
        raise ValueError("expected the end of the codes, got more")
    planes = {
        index: rounded(own @ setting.rotations[index].transpose(1, 2), geometry.dtype)
        for index, own in enumerate(rows)
    }
    return matrix.from_planes(planes, geometry, start=0, num_tokens=num_tokens)
