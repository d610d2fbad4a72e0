"""Which saves and loads see each other: tenants, adapters, lossy provenance, snapshots."""

from __future__ import annotations

from itertools import combinations, product

import pytest
import torch

from cachegen.bitstream.identity import Ids, PrefixKey
from cachegen.store import open_store

TOKENS = list(range(300))


def test_every_prefix_key_has_its_own_ids() -> None:
    prefix_keys = [
        PrefixKey(fingerprint, salt, extra, exact, complete)
        for fingerprint, salt, extra, exact, complete in product(
            (bytes(32), b"f" * 32),
            (b"", b"a", b"ab"),
            (b"", b"b", b"inexact", b"snapshot"),
            (True, False),
            (True, False),
        )
    ]
    assert len({prefix_key.seed for prefix_key in prefix_keys}) == len(prefix_keys)
    for one, other in combinations(prefix_keys[:12], 2):
        assert not {Ids(TOKENS, one).of(n) for n in (1, 64, 100)} & {
            Ids(TOKENS, other).of(n) for n in (1, 64, 100)
        }


@pytest.mark.parametrize("kind", ["salt", "extra", "fingerprint"])
def test_tenants_never_see_each_other(toy, kind: str) -> None:
    store, mine, yours = open_store("memory:"), b"m" * 32, b"y" * 32
    toy.save(TOKENS, store, **{kind: mine})
    assert toy.load(TOKENS, store, **{kind: yours}).kv is None
    assert (
        toy.load(TOKENS, store, **({} if kind != "fingerprint" else {kind: bytes(32)})).kv is None
    )
    mine_before = set(store.list())
    toy.save(TOKENS, store, **{kind: yours})
    assert len(set(store.list())) == 2 * len(mine_before)
    assert toy.load(TOKENS, store, **{kind: mine}).num_tokens == 300


def test_inexact_kv_is_never_found_as_exact(toy) -> None:
    store = open_store("memory:")
    manifest = toy.save(TOKENS, store, exact=False)
    assert not manifest.exact
    assert toy.load(TOKENS, store).kv is None
    assert toy.load(TOKENS, store).chunks == ()
    result = toy.load(TOKENS, store, exact=False)
    assert (result.num_tokens, result.exact) == (300, False)


def test_exact_kv_comes_first(toy) -> None:
    store = open_store("memory:")
    toy.save(TOKENS[:128], store, exact=True)
    toy.save(TOKENS, store, exact=False)
    assert toy.load(TOKENS[:128], store, exact=False, level="lossless").exact
    assert toy.load(TOKENS, store, exact=False).num_tokens == 300
    assert toy.load(TOKENS, store, exact=True).num_tokens == 128


@pytest.mark.parametrize("start", [128, 200])
def test_a_continuation_refers_to_what_is_stored(toy, start: int) -> None:
    store, kv = open_store("memory:"), toy.kv(TOKENS)
    prefix = toy.save(TOKENS[:start], store)
    before = set(store.list("chunks"))
    whole = toy.save(TOKENS, store, kv=kv.slice(start, 300))
    assert whole.chunks[: len(prefix.chunks)] == prefix.chunks
    assert all(
        f"/{start}-256/" in k or "/256-300/" in k for k in set(store.list("chunks")) - before
    )
    result = toy.load(TOKENS, store, level="lossless")
    assert result.num_tokens == 300
    toy.check(result, TOKENS, exact=True)
    for num_tokens in (256, 264):
        part = toy.load(TOKENS[:num_tokens], store, level="lossless")
        assert part.num_tokens == 256
        toy.check(part, TOKENS, exact=True)


def test_an_inexact_continuation_of_an_exact_prefix(toy) -> None:
    store, kv = open_store("memory:"), toy.kv(TOKENS)
    prefix = toy.save(TOKENS[:128], store)
    whole = toy.save(TOKENS, store, kv=kv.slice(128, 300), exact=False)
    assert [o.level for chunk in whole.chunks for o in chunk.objects] == ["high"] * 3
    assert whole.chunks[0].chunk_id == prefix.chunks[0].chunk_id
    assert toy.load(TOKENS, store).num_tokens == 128
    result = toy.load(TOKENS, store, exact=False)
    assert (result.num_tokens, result.exact) == (300, False)
    toy.check(result, TOKENS, exact=False)
    longer = toy.save([*TOKENS, 7], store, kv=toy.kv([*TOKENS, 7]).slice(300, 301), exact=False)
    assert longer.chunks[:3] == whole.chunks


def test_a_continuation_of_nothing_is_refused(toy) -> None:
    store, kv = open_store("memory:"), toy.kv(TOKENS)
    toy.save(TOKENS[:200], store, levels=["lossless"])
    for start in (64, 192):
        with pytest.raises(ValueError, match=f"starts at token {start}"):
            toy.save(TOKENS, store, kv=kv.slice(start, 300))
    with pytest.raises(ValueError, match="starts at token 200"):
        toy.save(TOKENS, store, kv=kv.slice(200, 300), exact=False)
    with pytest.raises(ValueError, match="starts at token 200"):
        toy.save(TOKENS, store, kv=kv.slice(200, 300), salt=b"other")


def test_a_snapshot_is_found_by_its_exact_tokens_only(toy) -> None:
    store, kv = open_store("memory:"), toy.window(TOKENS, held=100)
    manifest = toy.save(TOKENS, store, kv=kv)
    assert len(manifest.chunks) == len(list(store.list("contexts"))) == 1
    for tokens in (TOKENS[:128], TOKENS[:256], [*TOKENS, 1]):
        assert toy.load(tokens, store).kv is None
    result = toy.load(TOKENS, store, level="lossless")
    assert result.num_tokens == 300
    assert all(torch.equal(a, b) for a, b in zip(result.kv.planes(), kv.planes(), strict=True))


@pytest.mark.parametrize("snapshot_first", [True, False])
def test_a_complete_cache_is_preferred_to_a_snapshot(toy, snapshot_first: bool) -> None:
    store, tokens = open_store("memory:"), TOKENS[:100]
    saves = [{"kv": toy.window(tokens, held=20)}, {}]
    for options in saves if snapshot_first else saves[::-1]:
        toy.save(tokens, store, **options)
    result = toy.load(tokens, store, level="lossless")
    assert result.kv.is_complete
    toy.check(result, tokens, exact=True)
    assert toy.load([*tokens, 5], store).num_tokens == 64


def test_a_snapshot_starts_at_the_beginning(toy) -> None:
    store, kv = open_store("memory:"), toy.window(TOKENS, held=100)
    toy.save(TOKENS[:128], store)
    with pytest.raises(ValueError, match="must start at token 0"):
        toy.save(TOKENS, store, kv=kv.slice(128, 300))
