"""What a CPU computes quickly: many have no instructions for products of 16-bit numbers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import linear
from transformers import PreTrainedModel

from cachegen.engines.transformers.cache import capture
from cachegen.engines.transformers.quality import as_dtype
from cachegen.kvcache import KVCache

# As many times faster float32 must be. With AVX2 only it is 6.6 times as fast as bfloat16
# (docs/LOG.md, 2026-11-30). Other values were reasoned, not tried.
_MUCH = 2.0
# Some milliseconds of work. Arbitrary: half to four times as large do.
_ROWS, _COLUMNS = 256, 512
_RUNS = 5


@dataclass(frozen=True, slots=True, eq=False)
class Prefiller:
    """Computes caches in one dtype and rounds them to another; perhaps the same.

    Attributes:
        model: computes.
        dtype: of the caches.
    """

    model: PreTrainedModel
    dtype: torch.dtype

    def __call__(self, tokens: Sequence[int], *, past: KVCache | None = None) -> KVCache:
        """The cache of tokens behind a past, as in `capture`."""
        wide = past and as_dtype(past, self.model.dtype)
        return as_dtype(capture(self.model, tokens, past=wide), self.dtype)


def prefiller(model: PreTrainedModel, twin: PreTrainedModel) -> Prefiller:
    """Of a model, or of its twin in float32 where this machine computes its dtype slowly."""
    quick = twin if is_slow(model.dtype, model.device) else model
    return Prefiller(quick, model.dtype)


def is_slow(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a CPU multiplies matrices of a 16-bit dtype much more slowly than of float32."""
    if device.type != "cpu" or dtype not in (torch.bfloat16, torch.float16):
        return False
    return _took_s(dtype) > _MUCH * _took_s(torch.float32)


def _took_s(dtype: torch.dtype) -> float:
    """Seconds of a product, the fastest of some."""
    rows = torch.ones(_ROWS, _COLUMNS, dtype=dtype)
    matrix = torch.ones(_COLUMNS, _COLUMNS, dtype=dtype)
    found = []
    for _ in range(_RUNS):
        began_s = time.perf_counter()
        linear(rows, matrix)
        found.append(time.perf_counter() - began_s)
    return min(found)
