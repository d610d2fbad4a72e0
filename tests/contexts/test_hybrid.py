"""Models with windows: what is stored by kind, what a load fetches of it, and that it is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from cachegen.bitstream.manifest import read_manifest
from cachegen.contexts.save import save
from cachegen.kvcache import KVCache
from cachegen.loading.load import Reader, load
from cachegen.loading.result import LoadResult
from cachegen.policy.algorithm1 import Algorithm1
from cachegen.policy.fixed import Fixed
from cachegen.policy.min_ttft import MinTTFT
from cachegen.store import Store, read
from cachegen.store.memory import MemoryStore

FINGERPRINT = bytes(range(32))
WINDOWS = (100, 0, 300, 100, 1)
KINDS = ["full", "window-1", "window-100", "window-300"]
CHUNK = 128
TOKENS = list(range(7, 1007))


def truth(tokens: Sequence[int]) -> KVCache:
    """Every value depends on all tokens up to its own."""
    state = torch.cumsum((torch.tensor(tokens) * 7919 + 13) % 9973, 0) % 9973
    waves = torch.linspace(0.1, 3.0, 2 * len(WINDOWS) * 8)
    planes = torch.sin(state[:, None] * waves).bfloat16()
    planes = planes.reshape(len(tokens), 2 * len(WINDOWS), 2, 4).permute(1, 2, 0, 3)
    return KVCache(tuple(planes[0::2]), tuple(planes[1::2]), len(tokens))


def store_context(store: Store, tokens: Sequence[int] = TOKENS, **options):
    defaults = {"windows": WINDOWS, "chunk_tokens": CHUNK, "fingerprint": FINGERPRINT}
    options = defaults | {"levels": ["medium", "lossless"]} | options
    return save(options.pop("kv", None) or truth(tokens), tokens=tokens, store=store, **options)


def loaded(store: Store, tokens: Sequence[int] = TOKENS, **options) -> LoadResult:
    if "controller" not in options:
        options.setdefault("level", "lossless")
    return load(tokens, store=store, fingerprint=FINGERPRINT, **options)


def check(
    result: LoadResult,
    num_tokens: int,
    *,
    cut: int | None = None,
    tokens: Sequence[int] = TOKENS,
    may_hold_more: bool = False,
) -> None:
    """Each layer holds what going on needs, bit for bit, and windows hold nothing else."""
    assert result.num_tokens == result.kv.num_tokens == num_tokens
    cut = num_tokens if cut is None else cut
    expected = truth(tokens[:num_tokens])
    for layer, window in enumerate(WINDOWS):
        held = num_tokens - max(cut - max(window - 1, 1), 0) if window else num_tokens
        for found, whole in ((result.kv.keys, expected.keys), (result.kv.values, expected.values)):
            if may_hold_more:
                assert held <= found[layer].shape[1]
                held = found[layer].shape[1]
            assert torch.equal(found[layer], whole[layer][:, num_tokens - held :])


class Counted:
    """A store that counts the bytes of what it gives, by key; some keys are not to be had."""

    def __init__(self, store: Store) -> None:
        self.store, self.url, self.given = store, store.url, {}
        self.gone: tuple[str, ...] = ()

    def get(self, key: str, range: tuple[int, int] | None = None):
        if any(part in key for part in self.gone):
            return self.store.get("gone")
        data = b"".join(map(bytes, self.store.get(key, range)))
        self.given[key] = self.given.get(key, 0) + len(data)
        return iter([data])

    def __getattr__(self, name: str):
        return getattr(self.store, name)

    def chunks(self, kind: str) -> list[int]:
        """Where the chunks begin that objects of a kind were fetched of."""
        keys = (key.split("/") for key in self.given if key.endswith("/" + kind))
        return sorted(int(key[2].split("-")[0]) for key in keys)


class Recomputation:
    """What the model would do: the past must be there, at least each layer's window."""

    def __init__(self, tokens: Sequence[int] = TOKENS) -> None:
        self.tokens, self.whole, self.ranges = list(tokens), truth(tokens), []

    def __call__(self, tokens: Sequence[int], *, past: KVCache | None) -> KVCache:
        start = past.num_tokens if past else 0
        assert self.tokens[start : start + len(tokens)] == list(tokens)
        for layer, window in enumerate(WINDOWS):
            needed = min(start, window - 1) if window else start
            if needed:
                got, expected = past.keys[layer][:, -needed:], self.whole.keys[layer][:, :start]
                assert got.shape[1] == needed
                assert torch.equal(got, expected[:, start - needed :])
        self.ranges.append((start, start + len(tokens)))
        return self.whole.slice(start, start + len(tokens))


@pytest.fixture
def counted() -> Counted:
    store = Counted(MemoryStore())
    store_context(store)
    store.given.clear()
    return store


def test_every_kind_of_every_level_is_an_object(counted) -> None:
    manifest = store_context(counted)
    assert manifest.windows == WINDOWS
    assert manifest == read_manifest(manifest.to_bytes())
    for chunk in manifest.chunks:
        for level in ("medium", "lossless"):
            assert [stored.layers for stored in chunk.at_level(level)] == KINDS
            assert [stored.key.endswith(f"/v2/{level}/{kind}") for kind, stored in zip(
                KINDS, chunk.at_level(level), strict=True)] == [True] * 4  # fmt: skip


def test_a_load_fetches_what_the_windows_need(counted) -> None:
    result = loaded(counted)
    check(result, 1000)
    assert counted.chunks("full") == list(range(0, 1000, 128))
    assert counted.chunks("window-300") == [640, 768, 896]
    assert counted.chunks("window-100") == [896]
    assert counted.chunks("window-1") == [896]
    fetched = sum(size for key, size in counted.given.items() if key.startswith("chunks/"))
    assert result.size_bytes == fetched == sum(chunk.size_bytes for chunk in result.chunks)


@pytest.mark.parametrize("num_tokens", [1, 64, 128, 192, 256, 640, 768, 832, 896, 960, 1000])
@pytest.mark.parametrize("chunk_tokens", [64, 192, 512, 1024])
def test_every_cut_has_its_windows(chunk_tokens, num_tokens) -> None:
    """Chunks that do not divide windows, are narrower or wider, contexts within the window."""
    store = MemoryStore()
    store_context(store, chunk_tokens=chunk_tokens, levels=["lossless"])
    ends = {*range(chunk_tokens, 1000, chunk_tokens), 960}
    found = max((end for end in ends if end <= num_tokens), default=0)
    other = [*TOKENS[:num_tokens], *range(2000, 2100)]
    result = loaded(store, other)
    if found:
        check(result, found)
    assert result.num_tokens == found


@pytest.mark.parametrize("dropped", [1, 5, 127, 700, 1000])
def test_a_reader_that_drops_tokens_has_the_windows_before_them(counted, dropped) -> None:
    check(
        loaded(counted, reader=Reader(cut=lambda num_tokens: num_tokens - dropped)),
        1000,
        cut=1000 - dropped,
    )


def test_everything_is_loaded_where_that_is_asked_for(counted) -> None:
    result = loaded(counted, reader=Reader(complete=True))
    assert all(map(torch.equal, result.kv.planes(), truth(TOKENS).planes()))


def test_a_longer_context_shares_its_beginning(counted) -> None:
    before = set(counted.list())
    longer = [*TOKENS[:896], *range(3000, 3400)]
    kv = truth(longer)
    store_context(counted, longer, kv=kv.slice(896, 1296))
    new = [key for key in set(counted.list()) - before if key.startswith("chunks/")]
    assert new and all(int(key.split("/")[2].split("-")[0]) >= 896 for key in new)
    check(loaded(counted, longer), 1296, tokens=longer)
    check(loaded(counted), 1000)


def test_a_chunk_that_is_lost_is_computed_on_the_windows_before_it(counted) -> None:
    """They are fetched for that alone, and nothing is computed twice."""
    counted.gone = ("/384-512/",)
    recompute = Recomputation()
    result = loaded(counted, recompute=recompute)
    check(result, 1000)
    assert recompute.ranges == [(384, 512)]
    assert counted.chunks("window-300") == [0, 128, 256, 640, 768, 896]
    assert counted.chunks("window-100") == [256, 896]
    assert [chunk.level for chunk in result.chunks].count("text") == 1


def test_windows_that_are_lost_are_computed(counted) -> None:
    """Those before a chunk that must be computed, and those at the end."""
    before, last = "256-384/none/v2/", "896-1000/none/v2/"
    counted.gone = ("/384-512/", f"{before}lossless/w", f"{before}medium/w")
    counted.gone += (f"{last}lossless/window-1", f"{last}medium/window-1")
    recompute = Recomputation()
    check(loaded(counted, recompute=recompute), 1000)
    assert recompute.ranges == [(256, 384), (384, 512), (896, 1000)]


def test_without_a_model_a_load_ends_with_the_windows_of_its_end(counted) -> None:
    counted.gone = ("/640-768/",)
    result = loaded(counted)
    check(result, 640)
    assert [(c.start, c.stop) for c in result.chunks if c.level is None] == [(640, 1000)]


def test_without_a_model_and_windows_a_load_ends_earlier(counted) -> None:
    counted.gone = ("/640-768/", "512-640/none/v2/lossless/w", "512-640/none/v2/medium/w")
    result = loaded(counted)
    check(result, 512)
    assert [(c.start, c.stop) for c in result.chunks if c.level is None] == [(512, 1000)]


def test_a_window_at_a_lower_level_makes_the_load_inexact(counted) -> None:
    counted.gone = ("896-1000/none/v2/lossless/window-100",)
    result = loaded(counted)
    assert result.num_tokens == 1000 and not result.exact
    assert result.chunks[-1].level == "medium"
    counted.gone = ("/640-768/", "512-640/none/v2/lossless/w")
    result = loaded(counted)
    assert result.num_tokens == 640 and not result.exact
    assert result.chunks[-2].level == "medium"


@pytest.mark.parametrize("controller", [MinTTFT(), Algorithm1(), Fixed("lossless")])
@pytest.mark.parametrize("gone", [(), ("/256-384/", "/768-896/"), ("chunks/",)])
@pytest.mark.parametrize("slo_s", [None, 0.0, 5.0])
def test_loads_that_recompute_some_are_right(counted, controller, gone, slo_s) -> None:
    counted.gone = gone
    for _ in range(2):
        result = loaded(counted, controller=controller, slo_s=slo_s, recompute=Recomputation())
        assert result.num_tokens == 1000
        if result.exact:  # without an answer in time, nobody knows that there are windows
            check(result, 1000, may_hold_more=True)


def test_what_is_not_stored_yet_is_computed_behind_what_is_loaded(counted) -> None:
    """The manifest of the whole is damaged: the model goes on from the last cut."""
    whole = store_context(counted)
    key = f"contexts/{whole.context_id.hex()}"
    counted.delete(key)
    counted.put(key, b"damaged")
    recompute = Recomputation()
    check(loaded(counted, recompute=recompute), 1000)
    assert recompute.ranges == [(960, 1000)]


def test_contexts_stored_whole_still_load() -> None:
    store = MemoryStore()
    manifest = store_context(store, windows=())
    assert manifest.windows == () and b'"version":1' in manifest.to_bytes()
    result = loaded(store)
    assert all(map(torch.equal, result.kv.planes(), truth(TOKENS).planes()))


def test_levels_stored_whole_and_apart_stand_side_by_side() -> None:
    store = MemoryStore()
    store_context(store, windows=(), levels=["lossless", "medium"])
    manifest = store_context(store, levels=["lossless"])
    last = manifest.chunks[-1]
    assert [stored.layers for stored in last.at_level("medium")] == ["all"]
    assert [stored.layers for stored in last.at_level("lossless")] == KINDS
    assert {stored.layers for chunk in manifest.chunks for stored in chunk.at_level("medium")} == {
        "all"
    }
    check(loaded(store), 1000)
    result = loaded(store, level="medium")
    assert result.num_tokens == 1000 and not result.kv.is_complete
    again = store_context(store, windows=(), levels=["raw"])
    assert again.windows == WINDOWS
    check(loaded(store), 1000)


def test_a_context_that_was_stored_whole_is_extended_by_kinds() -> None:
    store, tokens = MemoryStore(), TOKENS[:896]
    store_context(store, tokens, windows=())
    manifest = store_context(store, kv=truth(TOKENS).slice(896, 1000))
    assert [stored.layers for stored in manifest.chunks[0].at_level("lossless")] == ["all"]
    assert [stored.layers for stored in manifest.chunks[-1].at_level("lossless")] == KINDS
    check(loaded(store), 1000)
    shorter = loaded(store, [*tokens, 1])
    assert all(map(torch.equal, shorter.kv.planes(), truth(tokens).planes()))


def test_windows_of_other_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="windows of 5 layers, got 4"):
        store_context(MemoryStore(), windows=WINDOWS[:-1])


def test_a_model_without_windows_is_stored_as_ever() -> None:
    plain, told = MemoryStore(), MemoryStore()
    store_context(plain, windows=())
    store_context(told, windows=(0,) * len(WINDOWS))
    assert {key: read(plain, key) for key in plain.list()} == {
        key: read(told, key) for key in told.list()
    }


def test_a_damaged_or_other_object_is_replaced(counted) -> None:
    manifest = store_context(counted)
    stored = manifest.chunks[0].at_level("lossless")
    other = read(counted, stored[1].key)
    counted.delete(stored[0].key)
    counted.put(stored[0].key, other)
    store_context(counted)
    assert len(read(counted, stored[0].key)) == stored[0].size_bytes
    check(loaded(counted), 1000)


def test_every_layer_may_have_a_window() -> None:
    """Then chunks before it are not fetched at all."""
    store, windows = Counted(MemoryStore()), (150, 150)
    kv = truth(TOKENS).of_layers((0, 1))
    store_context(store, kv=kv, windows=windows)
    store.given.clear()
    result = loaded(store)
    assert store.chunks("window-150") == [768, 896]
    assert result.num_tokens == 1000 and result.exact
    for found, whole in zip(result.kv.planes(), kv.planes(), strict=True):
        assert torch.equal(found, whole[:, -149:])


def test_a_snapshot_has_no_windows() -> None:
    """The finished cache of a model that keeps only its windows is stored in one piece."""
    store, kv = MemoryStore(), truth(TOKENS)
    cut = replace(kv, keys=(kv.keys[0][:, -99:], *kv.keys[1:]),
                  values=(kv.values[0][:, -99:], *kv.values[1:]))  # fmt: skip
    manifest = store_context(store, kv=cut)
    assert manifest.windows == () and len(manifest.chunks) == 1
    result = loaded(store)
    assert all(map(torch.equal, result.kv.planes(), cut.planes()))
