"""Profiles for the fault model: one of a codec that needs the tokens, one of a codec without."""

from __future__ import annotations

import numpy as np
import torch

from cachegen.codec import plain
from cachegen.codec.levels import EncodingLevel
from cachegen.codec.profile import Profile
from cachegen.codec.rope import RopeMap
from cachegen.codec.tables import table_frequencies
from cachegen.codec.transform.basis import LayerGroup, Transform
from cachegen.kvcache import KVCache
from faults.model import FINGERPRINT

STEPS = {"low": 1.6, "medium": 0.8, "high": 0.4, "highest": 0.2}
DEFAULT = "high"
VOCABULARY = 1000
LAG_RANKS = (2, 1)


def plain_profile(kv: KVCache) -> Profile:
    """The plain codec, its tables made for a cache."""
    rope = RopeMap.none(len(kv.geometry.planes))
    fitted = [plain.fit(kv, rope, step) for step in STEPS.values()]
    firsts = np.cumsum([0, *(len(model.frequencies) for model in fitted)])
    return Profile(
        codec="plain",
        fingerprint=FINGERPRINT,
        geometry=kv.geometry,
        levels=tuple(
            EncodingLevel(name, "plain", step / STEPS["highest"]) for name, step in STEPS.items()
        ),
        default_level=DEFAULT,
        rope=rope,
        scales=fitted[-1].steps,
        means=fitted[-1].means,
        frequencies=np.concatenate([model.frequencies for model in fitted]),
        table_ids=tuple(
            model.table_ids + first for model, first in zip(fitted, firsts, strict=False)
        ),
    )


def transform_profile(kv: KVCache) -> Profile:
    """The transform codec with a random rotation in place of a learned one."""
    group = _group(kv)
    width = len(group.synthesis)
    counts = 10_000 // (1 + abs(np.arange(256) - 128))
    features = np.random.default_rng(1).integers(-127, 128, (VOCABULARY, sum(LAG_RANKS)))
    tables = np.split(features.astype(np.int8), np.cumsum(LAG_RANKS)[:-1], axis=1)
    return Profile(
        codec="transform",
        fingerprint=FINGERPRINT,
        geometry=kv.geometry,
        levels=tuple(
            EncodingLevel(name, "transform", step, bound=1e6) for name, step in STEPS.items()
        ),
        default_level=DEFAULT,
        rope=RopeMap.none(len(kv.geometry.planes)),
        frequencies=table_frequencies(counts[None], margin=0, escape=True),
        table_ids=(np.zeros(width, dtype=np.int64),) * len(STEPS),
        transform=Transform((group,), tuple(tables), num_sinks=4, unit=1.0, ood_score=1e9),
        num_active=(((width,),),) * len(STEPS),
    )


def _group(kv: KVCache) -> LayerGroup:
    """All planes, no coefficient left out."""
    width = kv.geometry.values_per_token
    generator = torch.Generator().manual_seed(1)
    rotation = torch.linalg.qr(torch.randn((width, width), generator=generator)).Q
    prediction = torch.randn((sum(LAG_RANKS), width), generator=generator) / 500
    return LayerGroup(
        planes=tuple(range(len(kv.geometry.planes))),
        means=np.zeros(width, dtype=np.float32),
        prediction=prediction.to(torch.float16).numpy(),
        synthesis=rotation.T.to(torch.float16).contiguous().numpy(),
        analysis=rotation.to(torch.float16).contiguous().numpy(),
        variances=np.ones(width, dtype=np.float32),
    )
