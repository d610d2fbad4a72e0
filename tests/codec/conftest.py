"""Caches of every kind of geometry, and what it takes to compare them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from cachegen.codec.calibrate import calibrate
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


def distortion(held_out: KVCache) -> Callable[[Callable[[KVCache], KVCache]], Quality]:
    """An `evaluate` without a model: squared error over variance plays the part of KL."""

    def evaluate(roundtrip: Callable[[KVCache], KVCache]) -> Quality:
        pairs = list(zip(held_out.planes(), roundtrip(held_out).planes(), strict=True))
        error = sum(float((a.float() - b.float()).square().sum()) for a, b in pairs)
        variance = sum(float((a.float() - a.float().mean()).square().sum()) for a, _ in pairs)
        return Quality(error / variance, error, 1.0, held_out.num_tokens)

    return evaluate


def make_profile(shapes: str, dtype: torch.dtype, preset: str, **options: Any) -> Profile:
    samples = [make_cache(shapes, 150, dtype, seed=seed) for seed in (1, 2)]
    return calibrate(
        lambda: samples,
        evaluate=distortion(make_cache(shapes, 90, dtype, seed=3)),
        fingerprint=bytes(range(32)),
        rope=rope_of(samples[0]),
        preset=preset,
        **options,
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
def _distortion() -> Callable[[KVCache], Callable[[Callable[[KVCache], KVCache]], Quality]]:
    return distortion


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
