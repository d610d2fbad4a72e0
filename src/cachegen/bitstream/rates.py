"""Bits per value of a profile's levels, measured by coding contexts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from cachegen.bitstream.chunk import encode
from cachegen.bitstream.identity import Tokens
from cachegen.codec.calibration.progress import Progress, Status, silent
from cachegen.codec.levels import EncodingLevel, worst
from cachegen.codec.profile import Profile
from cachegen.kvcache import KVCache

PHASE = "sizes"
Contexts = Mapping[str, Sequence[tuple[Tokens, KVCache]]]


def with_rates(profile: Profile, contexts: Contexts, *, progress: Progress = silent) -> Profile:
    """The profile, whose levels know the bits per value of every domain that has contexts.

    Every context is coded as one chunk, within the bound of its level, header included.

    Args:
        profile: complete; the hash of the one returned is another.
        contexts: by domain, tokens and caches from position 0.
        progress: told after every context of every level.
    """
    total = len(profile.levels) * sum(map(len, contexts.values()))
    if not total:
        return profile
    done, levels = 0, []
    progress(Status(PHASE, 0, total))
    for level in profile.levels:
        bits = {}
        for domain, pairs in contexts.items():
            num_bytes = num_values = 0
            for tokens, kv in pairs:
                num_bytes += _size(kv, tokens, profile, level)
                num_values += kv.num_values
                done += 1
                progress(Status(PHASE, done, total))
            if num_values:
                bits[domain] = 8 * num_bytes / num_values
        levels.append(_with_bits(level, bits))
    return replace(profile, levels=tuple(levels))


def _size(kv: KVCache, tokens: Tokens, profile: Profile, level: EncodingLevel) -> int:
    threads = torch.get_num_threads()
    return len(encode(kv, tokens=tokens, profile=profile, level=level.name, threads=threads))


def _with_bits(level: EncodingLevel, bits: Mapping[str, float]) -> EncodingLevel:
    domains = {
        name: replace(quality, bits_per_value=bits.get(name))
        for name, quality in level.domains.items()
    }
    quality = level.quality
    if quality is not None and domains:
        quality = replace(quality, bits_per_value=worst(domains).bits_per_value)
    return replace(level, quality=quality, domains=domains)
