"""Caches of every kind of geometry, and what it takes to compare them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from cachegen.codec.calibration.calibrate import Evaluate, RoundTrip, calibrate
from cachegen.codec.calibration.sample import Sample
from cachegen.codec.encoded import EncodedChunk
from cachegen.codec.levels import Quality
from cachegen.codec.profile import Profile
from cachegen.codec.rope import Rope, RopeMap
from cachegen.kvcache import KVCache

# Per layer ((key heads, key dim), (value heads, value dim)).
LAYERS = {
    "gqa": (((2, 16), (2, 16)),) * 3,
    "mqa": (((1, 8), (1, 8)),) * 2,
    "mla": (((1, 24), (1, 8)),) * 2,
    "latent": (((1, 24), (1, 0)),) * 2,
    "mixed": (((2, 8), (2, 8)), ((1, 16), (1, 12)), ((4, 4), (2, 6))),
    "windowed": (((2, 8), (2, 8)),) * 4,
}
WINDOW = 7
VOCABULARY = 20


def make_cache(
    shapes: str,
    num_tokens: int,
    dtype: torch.dtype = torch.float32,
    *,
    start: int = 0,
    seed: int = 0,
    scale: float = 1.0,
) -> KVCache:
    """Normal values around a mean for each channel; odd layers of `windowed` hold few tokens."""
    generator = torch.Generator().manual_seed(seed)

    def plane(heads: int, dim: int, held: int) -> torch.Tensor:
        channels = torch.Generator().manual_seed(heads * dim)
        means, spreads = torch.randn((2, heads, 1, dim), generator=channels)
        values = torch.randn((heads, held, dim), generator=generator) * (spreads.abs() + 0.1)
        return ((values + means) * scale).to(dtype)

    layers = []
    for layer, (key, value) in enumerate(LAYERS[shapes]):
        windowed = shapes == "windowed" and layer % 2 == 1
        held = min(num_tokens, WINDOW) if windowed else num_tokens
        layers.append((plane(*key, held), plane(*value, held)))
    return replace(KVCache.from_layers(layers, start=start), num_tokens=num_tokens)


def rope_of(kv: KVCache, *, interleaved: bool = False) -> RopeMap:
    """Half of every key's dimensions turn."""
    pairs = {key.shape[2] // 4 for key in kv.keys}
    ropes = tuple(
        Rope(tuple((100.0 ** -torch.linspace(0, 1, count)).tolist()), interleaved)
        for count in sorted(pairs)
    )
    index = [sorted(pairs).index(key.shape[2] // 4) for key in kv.keys]
    return RopeMap(ropes, tuple(i for found in index for i in (found, None)))


def bits(kv: KVCache) -> list[bytes]:
    return [plane.contiguous().view(torch.uint8).numpy().tobytes() for plane in kv.planes()]


def assert_same_bits(left: KVCache, right: KVCache) -> None:
    assert left.geometry == right.geometry
    assert (left.start, left.num_tokens) == (right.start, right.num_tokens)
    assert [p.shape for p in left.planes()] == [p.shape for p in right.planes()]
    assert bits(left) == bits(right)


def frozen(chunk: EncodedChunk) -> EncodedChunk:
    """The chunk as a reader has it: its arrays cannot be written."""

    def read_only(array: np.ndarray) -> np.ndarray:
        view = array.copy()
        view.flags.writeable = False
        return view

    names = ("constants", "escapes", "sizes", "words")
    blocks = tuple(
        replace(block, **{name: read_only(getattr(block, name)) for name in names})
        for block in chunk.blocks
    )
    arrays = {name: read_only(array) for name, array in chunk.arrays.items()}
    return replace(chunk, blocks=blocks, arrays=arrays)


def distortion(held_out: KVCache) -> Evaluate:
    """An `evaluate` without a model: squared error over variance plays the part of KL."""

    def evaluate(roundtrip: RoundTrip) -> dict[str, Quality]:
        coded = roundtrip(held_out, tokens_of(held_out))
        pairs = list(zip(held_out.planes(), coded.planes(), strict=True))
        error = sum(float((a.float() - b.float()).square().sum()) for a, b in pairs)
        variance = sum(float((a.float() - a.float().mean()).square().sum()) for a, _ in pairs)
        return {"noise": Quality(error / variance, 0.0, 1.0, held_out.num_tokens)}

    return evaluate


def tokens_of(kv: KVCache) -> list[int]:
    """Ids for a cache that comes from no text."""
    return [(7 * position + 3) % VOCABULARY for position in range(kv.start, kv.stop)]


def sample_of(kv: KVCache, *, seed: int = 0) -> Sample:
    """A cache to learn from, its gradients noise of another spread in every channel."""
    generator = torch.Generator().manual_seed(seed)
    slopes = [
        torch.randn(plane.shape, generator=generator) * (1 + torch.arange(plane.shape[2]))
        for plane in kv.planes()
    ]
    gradient = replace(kv, keys=tuple(slopes[::2]), values=tuple(slopes[1::2]))
    return Sample(np.array(tokens_of(kv)), kv, gradient, continuation_tokens=10)


def make_profile(shapes: str, dtype: torch.dtype, preset: str, **options: Any) -> Profile:
    num_tokens = 1500 if preset == "transform" else 150
    samples = [
        sample_of(make_cache(shapes, num_tokens, dtype, seed=seed), seed=seed) for seed in (1, 2)
    ]
    features = np.random.default_rng(0).normal(size=(VOCABULARY, 2)).astype(np.float32)
    arguments = {"token_features": features, **options}
    return calibrate(
        lambda: samples,
        evaluate=distortion(make_cache(shapes, 90, dtype, seed=3)),
        fingerprint=bytes(range(32)),
        rope=rope_of(samples[0].kv),
        preset=preset,
        **arguments,
    )


@pytest.fixture(name="make_cache", scope="session")
def _make_cache() -> Callable[..., KVCache]:
    return make_cache


@pytest.fixture(name="rope_of", scope="session")
def _rope_of() -> Callable[..., RopeMap]:
    return rope_of


@pytest.fixture(name="assert_same_bits", scope="session")
def _assert_same_bits() -> Callable[[KVCache, KVCache], None]:
    return assert_same_bits


@pytest.fixture(name="frozen", scope="session")
def _frozen() -> Callable[[EncodedChunk], EncodedChunk]:
    return frozen


@pytest.fixture(name="distortion", scope="session")
def _distortion() -> Callable[[KVCache], Evaluate]:
    return distortion


@pytest.fixture(name="tokens_of", scope="session")
def _tokens_of() -> Callable[[KVCache], list[int]]:
    return tokens_of


@pytest.fixture(name="sample_of", scope="session")
def _sample_of() -> Callable[..., Sample]:
    return sample_of


@pytest.fixture(scope="session")
def profile_of() -> Callable[[str, torch.dtype, str], Profile]:
    """The calibrated profile of a geometry, dtype and preset; made once."""
    made: dict[tuple[str, torch.dtype, str], Profile] = {}

    def find(shapes: str, dtype: torch.dtype, preset: str) -> Profile:
        key = (shapes, dtype, preset)
        if key not in made:
            made[key] = make_profile(shapes, dtype, preset)
        return made[key]

    return find
