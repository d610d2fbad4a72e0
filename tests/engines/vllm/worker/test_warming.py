from __future__ import annotations

from dataclasses import replace

import pytest

from cachegen.codec.codec import decode_chunk
from cachegen.codec.encoded import EncodedChunk
from cachegen.engines.vllm.worker import warming
from cachegen.kvcache import KVCache


@pytest.fixture
def decoded(monkeypatch) -> list[tuple[EncodedChunk, KVCache]]:
    found: list[tuple[EncodedChunk, KVCache]] = []

    def decode(chunk: EncodedChunk, **options) -> KVCache:
        found.append((chunk, decode_chunk(chunk, **options)))
        return found[-1][1]

    monkeypatch.setattr(warming, "decode_chunk", decode)
    return found


def test_a_chunk_of_the_level_is_decoded(toy, decoded) -> None:
    profile = toy.profile
    for level, own in ((profile.default_level, profile), ("medium", None), ("lossless", None)):
        warming.warm_up(profile.geometry, profile=own, rope=None, level=level)
    codecs = [chunk.codec for chunk, _ in decoded]
    assert codecs == ["plain", "adaptive", "lossless"]
    assert all(kv.geometry == profile.geometry for _, kv in decoded)


def test_a_profile_that_does_not_fit_is_left_to_loads(toy, decoded) -> None:
    geometry = replace(toy.profile.geometry, planes=toy.profile.geometry.planes[:2])
    warming.warm_up(geometry, profile=toy.profile, rope=None, level=toy.profile.default_level)
    warming.warm_up(geometry, profile=None, rope=None, level="nothing")
    assert not decoded
