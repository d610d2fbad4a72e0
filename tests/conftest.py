"""What tests of several layers need: few threads, and a small profile of the transform codec."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from cachegen.codec.levels import EncodingLevel
from cachegen.codec.profile import Profile
from cachegen.codec.rope import RopeMap
from cachegen.codec.tables import table_frequencies
from cachegen.codec.transform.basis import LayerGroup, Transform
from cachegen.kvcache import KVCache

VOCABULARY = 50
LAG_RANKS = (2, 1)
MakeTransformProfile = Callable[..., Profile]


def transform_profile(
    kv: KVCache,
    *,
    rope: RopeMap | None = None,
    steps: Mapping[str, float],
    bound: float = 1e6,
    fingerprint: bytes = bytes(range(32)),
    groups: Sequence[Sequence[int]] = (),
) -> Profile:
    """Rotations in place of learned transforms, all coefficients coded.

    Args:
        kv: a cache of the geometry.
        rope: rotations of its keys.
        steps: by the names of the levels, smallest level first; the last but one is the default.
        bound: of every level.
        fingerprint: the model.
        groups: planes of the layer groups; by default there are two.
    """
    half = len(kv.geometry.planes) // 4 * 2
    halves = (range(half), range(half, len(kv.geometry.planes)))
    made = tuple(_group(kv, tuple(planes)) for planes in groups or halves if planes)
    features = np.random.default_rng(1).integers(-127, 128, (VOCABULARY, sum(LAG_RANKS)))
    active = tuple(len(group.synthesis) for group in made)
    counts = 10_000 // (1 + abs(np.arange(256) - 128))
    levels = tuple(
        EncodingLevel(name, "transform", step, bound=bound) for name, step in steps.items()
    )
    return Profile(
        codec="transform",
        fingerprint=fingerprint,
        geometry=kv.geometry,
        levels=levels,
        default_level=levels[max(len(levels) - 2, 0)].name,
        rope=rope or RopeMap.none(len(kv.geometry.planes)),
        frequencies=table_frequencies(counts[None], margin=0, escape=True),
        table_ids=(np.zeros(sum(active), dtype=np.int64),) * len(levels),
        transform=Transform(
            made,
            tuple(np.split(features.astype(np.int8), np.cumsum(LAG_RANKS)[:-1], axis=1)),
            num_sinks=4,
            unit=1.0,
            ood_score=1e9,
        ),
        num_active=((active,),) * len(levels),
    )


def _group(kv: KVCache, planes: tuple[int, ...]) -> LayerGroup:
    width = sum(kv.geometry.planes[plane].width for plane in planes)
    generator = torch.Generator().manual_seed(width)
    rotation = torch.linalg.qr(torch.randn((width, width), generator=generator)).Q
    prediction = torch.randn((sum(LAG_RANKS), width), generator=generator) / 500
    return LayerGroup(
        planes=planes,
        means=np.full(width, 0.125, dtype=np.float32),
        prediction=prediction.to(torch.float16).numpy(),
        synthesis=rotation.T.to(torch.float16).contiguous().numpy(),
        analysis=rotation.to(torch.float16).contiguous().numpy(),
        variances=np.ones(width, dtype=np.float32),
    )


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """The work is small, and threads that wait for each other spin on cores that are busy."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def measurements(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of this run's measurements, in place of the user's."""
    folder = tmp_path_factory.mktemp("measurements")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CACHEGEN_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture(scope="session")
def make_transform_profile() -> MakeTransformProfile:
    """`transform_profile`, for caches of any geometry."""
    return transform_profile
