"""Small real chunks of every codec, and the tool that hides damage from the checksums."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from cachegen.bitstream.chunk import encode
from cachegen.bitstream.format import pack
from cachegen.codec import paper, plain
from cachegen.codec.codec import encode_chunk
from cachegen.codec.levels import EncodingLevel
from cachegen.codec.model import CodingModel, model_to_arrays
from cachegen.codec.profile import Profile
from cachegen.codec.rope import Rope, RopeMap
from cachegen.kvcache import KVCache

ROPE = RopeMap((Rope((1.0, 0.1)),), (0, None, 0, None))
FINGERPRINT = bytes(range(32))
CHUNK_ID = bytes(range(100, 132))
KINDS = (
    "raw",
    "packed",
    "lossless",
    "plain",
    "adaptive",
    "plain-profile",
    "paper",
    "paper-profile",
    "transform",
)
TOKENS = (3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9)


@dataclass(frozen=True)
class Sample:
    """A chunk, the cache it was made from, and the profile and tokens it needs."""

    data: bytes
    kv: KVCache
    profile: Profile | None
    tokens: tuple[int, ...] | None = None


def small_cache(heads: tuple[int, ...]) -> KVCache:
    generator = torch.Generator().manual_seed(7)
    layers = []
    for count in heads:
        planes = [torch.randn((count, 13, dim), generator=generator) for dim in (4, 2)]
        layers.append((planes[0].bfloat16(), planes[1].bfloat16()))
    return replace(KVCache.from_layers(layers), start=3)


def make_sample(kind: str, make_transform_profile: Callable[..., Profile]) -> Sample:
    kv = small_cache((1,) if kind == "paper" else (2, 1))
    if kind == "transform":
        profile = make_transform_profile(kv, rope=ROPE, steps={"high": 0.05}, bound=0.5)
        ids = {"fingerprint": FINGERPRINT, "chunk_id": CHUNK_ID}
        return Sample(encode(kv, tokens=TOKENS, profile=profile, **ids), kv, profile, TOKENS)
    codec, _, with_profile = kind.partition("-")
    model = _model(kv, codec)
    if with_profile:
        profile = _profile(kv, codec, model)
        chunk = encode_chunk(kv, profile=profile, level="high")
    elif codec in ("paper", "plain"):
        profile = None
        coder = paper if codec == "paper" else plain
        blocks, arrays = coder.encode(kv, model, threads=1)
        chunk = encode_chunk(kv, level="high")
        arrays |= model_to_arrays(model)
        chunk = replace(chunk, codec=codec, blocks=blocks, arrays=arrays)
    else:
        profile = None
        level = "high" if codec == "adaptive" else codec
        chunk = encode_chunk(kv, level=level, rope=ROPE)
    data = pack(replace(chunk, fingerprint=FINGERPRINT, chunk_id=CHUNK_ID))
    return Sample(data, kv, profile)


def _model(kv: KVCache, codec: str) -> CodingModel:
    if codec == "paper":
        return paper.fit([kv], kv.geometry, 1.0, margin=1)
    return plain.fit(kv, ROPE, 0.2)


def _profile(kv: KVCache, codec: str, model: CodingModel) -> Profile:
    return Profile(
        codec=codec,
        fingerprint=FINGERPRINT,
        geometry=kv.geometry,
        levels=(EncodingLevel("high", codec, 1.0),),
        default_level="high",
        rope=model.rope,
        scales=model.steps,
        means=model.means,
        frequencies=model.frequencies,
        table_ids=(model.table_ids,),
    )


@pytest.fixture(scope="session", params=KINDS)
def sample(request: pytest.FixtureRequest, samples: dict[str, Sample]) -> Sample:
    """A small chunk of each codec in turn."""
    return samples[request.param]


@pytest.fixture(scope="session")
def samples(make_transform_profile: Callable[..., Profile]) -> dict[str, Sample]:
    """All of them."""
    return {kind: make_sample(kind, make_transform_profile) for kind in KINDS}


@pytest.fixture(scope="session")
def reseal() -> Callable[[bytes], bytes]:
    """Recomputes the sizes and checksums of a damaged chunk."""
    tool = Path(__file__).parents[2] / "fuzz" / "reseal.py"
    return runpy.run_path(str(tool))["reseal"]
