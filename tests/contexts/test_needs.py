"""What a load needs of each chunk, and what that costs to fetch."""

from __future__ import annotations

import pytest

from cachegen.bitstream.manifest import ChunkEntry, StoredObject
from cachegen.contexts.needs import Needs, begin, options_of
from cachegen.policy.controller import ChunkState

WINDOWS = (100, 0, 100, 20)
KINDS = ("full", "window-20", "window-100")
SIZES = dict(zip(KINDS, (1000, 10, 100), strict=True))


def make(num_chunks: int = 6, *, whole: bool = False, **options) -> tuple[Needs, list[ChunkState]]:
    """Chunks of 64 tokens."""
    entries = []
    for start in range(0, 64 * num_chunks, 64):
        objects = [
            StoredObject(level, f"{level}-{kind}", factor * SIZES[kind], bytes(32), layers=kind)
            for level, factor in (("high", 1), ("lossless", 2))
            for kind in KINDS
        ]
        if whole:
            objects = [StoredObject("lossless", "lossless", 2220, bytes(32))]
        entries.append(ChunkEntry(bytes(32), start, start + 64, tuple(objects)))
    chunks = [ChunkState(c.start, c.stop, options_of(c, None)) for c in entries]
    options = {"windows": WINDOWS} | options
    needs = Needs(chunks, entries, **options)
    begin(needs, chunks, can_recompute=True)
    return needs, chunks


def needed(needs: Needs, kind: str, num_chunks: int = 6) -> list[int]:
    return [index for index in range(num_chunks) if kind in needs.missing(index)]


def test_windows_are_needed_where_the_reader_goes_on() -> None:
    needs, chunks = make()
    assert needed(needs, "full") == [0, 1, 2, 3, 4, 5]
    assert needed(needs, "window-100") == [4, 5]
    assert needed(needs, "window-20") == [5]
    assert [chunk.options[0].size_bytes for chunk in chunks] == [1000] * 4 + [1100, 1110]
    assert [chunk.options[1].size_bytes for chunk in chunks] == [2000] * 4 + [2200, 2220]


@pytest.mark.parametrize(("cut", "hundreds", "twenties"), [
    (384, [4, 5], [5]),
    (356, [4, 5], [5]),
    (355, [4, 5], [5]),
    (339, [3, 4, 5], [5]),
    (320, [3, 4, 5], [4, 5]),
    (1, [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]),
])  # fmt: skip
def test_they_reach_back_from_where_tokens_are_dropped(cut, hundreds, twenties) -> None:
    needs, _ = make(cut=lambda num_tokens: cut)
    assert needed(needs, "window-100") == hundreds
    assert needed(needs, "window-20") == twenties


def test_a_model_that_goes_on_needs_them_too() -> None:
    needs, _ = make()
    assert needs.misses_before(192)
    needs.compute_at(192)
    assert needed(needs, "window-100") == [1, 2, 4, 5]
    assert needed(needs, "window-20") == [2, 5]
    for index in range(3):
        for kind in needs.missing(index):
            needs.got(index, kind)
    assert not needs.misses_before(192) and needs.misses_before(256)
    needs.got(3)
    assert not needs.misses_before(256)
    assert needs.last_before(192) == [99, 192, 99, 19]
    assert needs.last_before(50) == [50, 50, 50, 19]


def test_a_load_that_ends_early_needs_those_before_its_end() -> None:
    needs, _ = make()
    needs.end_at(192)
    assert needed(needs, "window-100", 3) == [1, 2]
    assert needs.last_at_end() == [99, 192, 99, 19]


def test_what_is_dropped_again_is_there_too() -> None:
    needs, _ = make(cut=lambda num_tokens: num_tokens - 3)
    assert needs.last_at_end() == [102, 384, 102, 22]


def test_what_the_model_must_compute_is_known_from_the_start() -> None:
    chunks = [ChunkState(0, 64, ()), ChunkState(64, 200, ())]
    needs = Needs(chunks, (), windows=WINDOWS)
    begin(needs, chunks, can_recompute=True)
    assert needs.missing(0) == KINDS and not chunks[0].options


def test_everything_is_needed_where_that_is_asked_for() -> None:
    needs, chunks = make(complete=True)
    assert {chunk.options[0].size_bytes for chunk in chunks} == {1110}
    assert needs.last_at_end() is None and needs.last_before(128) is None


def test_a_level_in_one_object_is_taken_whole() -> None:
    needs, chunks = make(whole=True)
    assert {chunk.options[0].size_bytes for chunk in chunks} == {2220}
    needs.got(0)
    needs.got(5)
    assert needs.missing(0) == needs.missing(5) == ()


def test_without_windows_a_chunk_is_there_or_not() -> None:
    needs, _ = make(whole=True, windows=())
    assert needs.missing(0) == ("all",) and needs.last_at_end() is None
    needs.got(0)
    assert not needs.missing(0) and not needs.options(0)


def test_a_level_of_no_use_is_not_offered_again() -> None:
    needs, _ = make()
    needs.cannot_be_had(2, "high")
    assert [option.level for option in needs.options(2)] == ["lossless"]
    assert needs.rank(2, "high") < needs.rank(2, "lossless")
    needs.store_is_gone()
    assert not needs.options(1) and needs.missing(1)


@pytest.mark.parametrize("window", [1, 2])
def test_the_narrowest_windows_hold_a_token(window: int) -> None:
    """Of none, nobody would know the shape."""
    needs = Needs([ChunkState(0, 64, ())], (), windows=(0, window))
    assert needs.last_at_end() == [64, 1]
