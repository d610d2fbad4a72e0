"""A coder that is broken on purpose, by which every measure is tried: it must look worse."""

from __future__ import annotations

from dataclasses import replace

import torch

from cachegen.evaluation.coder import Coder, Tokens
from cachegen.kvcache import KVCache


def broken_coder(whole: Coder) -> Coder:
    """Another coder, whose decoded values of the middle layer are lost: all zero."""

    def decode(data: bytes, tokens: Tokens) -> KVCache:
        kv = whole.decode(data, tokens)
        values = list(kv.values)
        middle = kv.num_layers // 2
        values[middle] = torch.zeros_like(values[middle])
        return replace(kv, values=tuple(values))

    return replace(whole, method="broken", decode=decode)
