"""Which faults there are, how often, and where in a load they strike."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cachegen.bitstream.manifest import Manifest, manifest_key, profile_key
from cachegen.policy.algorithm1 import Algorithm1
from cachegen.policy.controller import Controller
from faults.proxy import Fault, Kind

WEIGHTS = {
    "none": 6,
    "reset": 12,
    "truncated": 12,
    "corrupt": 14,
    "stall": 10,
    "slow_disk": 6,
    "http_5xx": 12,
    "killed": 4,
    "evicted": 12,
    "wrong_token": 3,
    "expired_certificate": 3,
    "dead": 3,
    "mixed": 3,
}
ON_THE_WIRE: dict[str, Kind] = {
    "reset": "reset",
    "truncated": "truncate",
    "corrupt": "flip",
    "stall": "stall",
    "slow_disk": "dribble",
    "http_5xx": "refuse",
}
LEVELS = ("low", "medium", "high", "highest", "lossless")
PREAMBLE_BYTES = 12_000
REACHED_PERCENT = 75
COMPANIONS = (b"contexts/", b"profiles/", b"tokens/")
COMPANION_SHARE, COMPANION_BYTES = 0.3, 3000
STATUSES = (500, 502, 503, 504)
WITHOUT_MODEL_SHARE, PAIR_SHARE, STALLED_PAIR_SHARE = 0.25, 0.1, 0.5
LATER_S = 0.3


@dataclass(frozen=True, slots=True)
class Method:
    """How to load: at a level, or by a controller, with or without a deadline."""

    level: str | None = None
    controller: Controller | None = None
    slo_s: float | None = None


@dataclass(frozen=True, slots=True)
class Company:
    """Who else there is.

    Attributes:
        has_model: whether chunks can be recomputed.
        starts_s: when each load of the context begins; two of them share their downloads.
    """

    has_model: bool
    starts_s: tuple[float, ...] = (0.0,)


def plan(loads: int, seed: int) -> list[str]:
    """The fault of each load: by weight, at least one of each kind, in random order."""
    total = sum(WEIGHTS.values())
    counts = {name: max(round(loads * weight / total), 1) for name, weight in WEIGHTS.items()}
    counts["none"] = max(counts["none"] + loads - sum(counts.values()), 1)
    names = [name for name, count in counts.items() for _ in range(count)]
    random.Random(seed).shuffle(names)
    return names


def draw_method(rng: random.Random) -> Method:
    """Levels half of the time, since then it is known what is asked for."""
    kind = rng.choice(("level", "level", "min_ttft", "min_ttft_slo", "algorithm1"))
    if kind == "level":
        return Method(level=rng.choice(LEVELS))
    if kind == "min_ttft":
        return Method()
    slo_s = rng.uniform(0.02, 0.5)
    return Method(slo_s=slo_s, controller=Algorithm1() if kind == "algorithm1" else None)


def draw_company(rng: random.Random, fault: str) -> Company:
    """Every second stall strikes two loads at once: each must get away from what it shares."""
    has_model = rng.random() >= WITHOUT_MODEL_SHARE
    share = STALLED_PAIR_SHARE if fault == "stall" else PAIR_SHARE
    is_pair = rng.random() < share
    return Company(has_model, (0.0, rng.uniform(0.0, LATER_S)) if is_pair else (0.0,))


def faults_of(
    name: str,
    manifest: Manifest,
    *,
    rng: random.Random,
    level: str,
    kill: Callable[[], None],
    evict: Callable[[Sequence[str]], None],
) -> list[Fault]:
    """The script of one load, between its first byte and about its last."""
    if name == "mixed":
        kinds = rng.sample([*ON_THE_WIRE, "evicted"], 3)
    else:
        kinds = [name] * rng.choice((1, 1, 2, 4)) if name in (*ON_THE_WIRE, "evicted") else [name]
    size_bytes = PREAMBLE_BYTES + sum(
        stored.size_bytes
        for chunk in manifest.chunks
        for stored in chunk.objects
        if stored.level == level
    )
    faults: list[Fault] = []
    for kind in kinds:
        at = rng.randrange(REACHED_PERCENT * size_bytes // 100)
        if kind == "killed":
            faults.append(Fault("call_and_reset", at, call=kill))
        elif kind == "evicted":
            keys = draw_victims(manifest, rng)
            faults.append(Fault("call", at // 2, call=lambda keys=keys: evict(keys)))
        elif kind == "http_5xx":
            faults.append(Fault("refuse", rng.randrange(6), status=rng.choice(STATUSES)))
        elif kind in ON_THE_WIRE:
            path = rng.choice(COMPANIONS) if rng.random() < COMPANION_SHARE else b""
            at = rng.randrange(COMPANION_BYTES) if path else at
            faults.append(Fault(ON_THE_WIRE[kind], at, path, bit=rng.randrange(8)))
    return faults


def draw_victims(manifest: Manifest, rng: random.Random) -> list[str]:
    """Some or all levels of some chunks, now and then a manifest or profile."""
    chunks = rng.sample(manifest.chunks, rng.randint(1, len(manifest.chunks)))
    keys = [
        stored.key
        for chunk in chunks
        for stored in rng.sample(chunk.objects, rng.randint(1, len(chunk.objects)))
    ]
    if rng.random() < 0.2:
        keys.append(manifest_key(manifest.context_id))
    if rng.random() < 0.2:
        hashes = {stored.profile_hash for chunk in manifest.chunks for stored in chunk.objects}
        keys += [profile_key(profile_hash) for profile_hash in hashes]
    return keys


class Evictions:
    """Files taken out of a folder, and put back."""

    def __init__(self, folder: Path, aside: Path) -> None:
        self.folder, self.aside = folder, aside
        self._moved: dict[Path, Path] = {}

    def __contains__(self, key: str) -> bool:
        """Whether this key is taken out now."""
        return self.folder / key in self._moved

    def evict(self, keys: Sequence[str]) -> None:
        """Take out the files of those keys that are there."""
        for key in keys:
            path = self.folder / key
            if path.exists():
                away = self.aside / str(len(self._moved))
                path.rename(away)
                self._moved[path] = away

    def restore(self) -> None:
        """Put back all that was taken out."""
        for path, away in self._moved.items():
            away.replace(path)
        self._moved.clear()
