"""A coder that is broken on purpose, by which every measure is tried: it must look worse."""

from __future__ import annotations

from dataclasses import replace

import torch

from cachegen.evaluation.coder import Coder, Tokens
from cachegen.kvcache import KVCache


def broken_coder(whole: Coder) -> Coder:
    """Another coder, whose decoded values of the second layer are lost: all zero.

    All layers behind it build on it. In the shipped model the values of a layer in the middle
    change nothing that a few cases would show: KL 0.003.
    """

    def decode(data: bytes, tokens: Tokens) -> KVCache:
        kv = whole.decode(data, tokens)
        values = list(kv.values)
        early = min(1, kv.num_layers - 1)
        values[early] = torch.zeros_like(values[early])
        return replace(kv, values=tuple(values))

    return replace(whole, method="broken", decode=decode)
