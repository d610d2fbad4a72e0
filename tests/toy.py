"""A toy model whose keys and values are a causal function of the tokens, and stores that fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pytest
import torch

from cachegen.bitstream.manifest import Manifest
from cachegen.codec import plain
from cachegen.codec.levels import EncodingLevel
from cachegen.codec.profile import Profile
from cachegen.codec.rope import RopeMap
from cachegen.contexts.save import save
from cachegen.kvcache import KVCache
from cachegen.loading.load import load
from cachegen.loading.result import LoadResult
from cachegen.policy.fixed import Fixed
from cachegen.store import Buffer, Store, open_store

NUM_LAYERS, HEADS, DIM = 2, 2, 8
FINGERPRINT = bytes(range(32))


class Toy:
    """One model: what it caches, and save and load with its fingerprint."""

    fingerprint = FINGERPRINT

    def kv(self, tokens: Sequence[int]) -> KVCache:
        """Every value depends on all tokens up to its own."""
        state = torch.cumsum((torch.tensor(tokens) * 7919 + 13) % 9973, 0) % 9973
        waves = torch.linspace(0.1, 3.0, 2 * NUM_LAYERS * HEADS * DIM)
        planes = torch.sin(state[:, None] * waves).bfloat16()
        planes = planes.reshape(len(tokens), 2 * NUM_LAYERS, HEADS, DIM).permute(1, 2, 0, 3)
        return KVCache(tuple(planes[0::2]), tuple(planes[1::2]), len(tokens))

    def window(self, tokens: Sequence[int], *, held: int) -> KVCache:
        """The finished cache of a model whose second layer keeps only the last tokens."""
        kv = self.kv(tokens)
        return KVCache.from_layers(
            [
                (kv.keys[0], kv.values[0]),
                (kv.keys[1][:, -held:], kv.values[1][:, -held:]),
            ]
        )

    @cached_property
    def profile(self) -> Profile:
        return self.make_profile(0.5)

    def make_profile(self, step: float) -> Profile:
        """Four levels; another step gives another profile."""
        kv = self.kv(range(500))
        model = plain.fit(kv, RopeMap.none(2 * NUM_LAYERS), 0.2)
        steps = {"low": 4 * step, "medium": 2 * step, "high": step, "highest": step / 2}
        return Profile(
            codec="plain",
            fingerprint=FINGERPRINT,
            geometry=kv.geometry,
            levels=tuple(EncodingLevel(name, "plain", size) for name, size in steps.items()),
            default_level="medium",
            rope=model.rope,
            scales=model.steps,
            means=model.means,
            frequencies=model.frequencies,
            table_ids=(model.table_ids,) * len(steps),
        )

    def save(self, tokens: Sequence[int], store: Store, **options) -> Manifest:
        options = {"chunk_tokens": 128, "fingerprint": FINGERPRINT} | options
        return save(
            options.pop("kv", None) or self.kv(tokens), tokens=tokens, store=store, **options
        )

    def load(self, tokens: Sequence[int], store: Store, **options) -> LoadResult:
        """At the default level unless a level or a controller is given."""
        options = {"fingerprint": FINGERPRINT} | options
        if options.get("level") is None and "controller" not in options:
            options["controller"] = Fixed("medium")
        return load(tokens, store=store, **options)

    def recompute(self, tokens: Sequence[int]) -> Recomputation:
        """The callable for one context; remembers which ranges it was asked for."""
        return Recomputation(self.kv(tokens), list(tokens))

    def check(self, result: LoadResult, tokens: Sequence[int], *, exact: bool) -> None:
        """The result is the beginning of the true cache: to the bit, or nearly so."""
        if result.kv is None:
            assert result.num_tokens == 0
            return
        assert (result.kv.start, result.kv.num_tokens) == (0, result.num_tokens)
        truth = self.kv(tokens).slice(0, result.num_tokens)
        for found, true in zip(result.kv.planes(), truth.planes(), strict=True):
            assert found.dtype == true.dtype
            if exact:
                assert torch.equal(found, true)
            else:
                error = (found.float() - true.float()).square().mean().sqrt()
                assert error < 0.5 * true.float().square().mean().sqrt()


@dataclass
class Recomputation:
    truth: KVCache
    tokens: list[int]
    ranges: list[tuple[int, int]] = field(default_factory=list)

    def __call__(self, tokens: Sequence[int], *, past: KVCache | None) -> KVCache:
        start = 0 if past is None else past.num_tokens
        stop = start + len(tokens)
        assert self.tokens[start:stop] == list(tokens)
        self.ranges.append((start, stop))
        return self.truth.slice(start, stop)


@dataclass
class Intercepted:
    """A store that calls a function before every get or put; it may raise, or do anything."""

    store: Store
    before_get: Callable[[str], None] = lambda key: None
    before_put: Callable[[str], None] = lambda key: None

    @property
    def url(self) -> str:
        return self.store.url

    def put(self, key: str, data: Buffer, *, parent: str | None = None) -> bool:
        self.before_put(key)
        return self.store.put(key, data, parent=parent)

    def get(self, key: str, range: tuple[int, int] | None = None) -> Iterator[Buffer]:
        self.before_get(key)
        return self.store.get(key, range)

    def lookup(self, keys: Sequence[str]) -> list[int | None]:
        return self.store.lookup(keys)

    def list(self, prefix: str = "") -> Iterator[str]:
        return self.store.list(prefix)

    def delete(self, key: str) -> None:
        self.store.delete(key)


@pytest.fixture(scope="session")
def toy() -> Toy:
    return Toy()


@pytest.fixture
def intercept() -> type[Intercepted]:
    return Intercepted


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A directory, `tmp_path / "store"`, so that tests can damage real files."""
    return open_store(tmp_path / "store")
