"""Ids name prefixes: equal prefix, equal id; anything else, another id."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cachegen.bitstream.identity import (
    chain,
    context_id,
    seed,
    tokens_from_bytes,
    tokens_to_bytes,
)
from cachegen.errors import BitstreamError

MODEL = bytes(range(32))
START = seed(MODEL)
TOKEN_LISTS = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=200)


def slow_id(tokens, start: bytes) -> bytes:
    """The definition, token by token."""
    found, pending = start, b""
    for token in tokens:
        pending += token.to_bytes(4, "little")
        if len(pending) == 256:
            found, pending = hashlib.sha256(found + pending).digest(), b""
    return hashlib.sha256(found + pending).digest() if pending else found


def test_known_answers():
    assert seed(MODEL, salt=b"tenant", extra=b"lora").hex() == (
        "d4d25ca3df6764fcab07188aae5dae811433f065bac89f234abe114160c9279b"
    )
    assert context_id(range(100), START).hex() == (
        "6f05030b0e1beb4c13e5238f2e1efc47c5a5b4a4ad9f98425d1bea8606dc994b"
    )
    assert chain(range(128), START)[-1].hex() == (
        "080953ede80541ec62e80c7dbbe0ebefbfcab372d7dacce1403b5150d73f69b1"
    )


@settings(max_examples=80, deadline=None)
@given(TOKEN_LISTS)
def test_agrees_with_the_definition(tokens):
    assert context_id(tokens, START) == slow_id(tokens, START)
    boundaries = range(64, len(tokens) + 1, 64)
    assert chain(tokens, START) == [slow_id(tokens[:stop], START) for stop in boundaries]


@settings(max_examples=80, deadline=None)
@given(TOKEN_LISTS, st.data())
def test_one_changed_token_changes_every_later_id(tokens, data):
    place = data.draw(st.integers(0, len(tokens) - 1))
    other = [*tokens[:place], tokens[place] ^ 1, *tokens[place + 1 :]]
    assert context_id(tokens, START) != context_id(other, START)
    for index, (a, b) in enumerate(zip(chain(tokens, START), chain(other, START), strict=True)):
        assert (a == b) == (64 * (index + 1) <= place)


@pytest.mark.parametrize("length", [63, 64, 65, 127, 128, 129])
def test_prefixes_share_their_chain(length):
    tokens = list(range(200))
    assert chain(tokens[:length], START) == chain(tokens, START)[: length // 64]
    on_boundary = length % 64 == 0
    assert (context_id(tokens[:length], START) in chain(tokens, START)) == on_boundary


def test_no_prefix_is_named_like_another():
    tokens = [0] * 200
    ids = {context_id(tokens[:length], START) for length in range(1, 201)}
    assert len(ids) == 200


def test_seeds_keep_everything_apart():
    seeds = [
        seed(MODEL),
        seed(bytes(32)),
        seed(MODEL, salt=b"a"),
        seed(MODEL, extra=b"a"),
        seed(MODEL, salt=b"ab"),
        seed(MODEL, salt=b"a", extra=b"b"),
        seed(MODEL, salt=b"b", extra=b"a"),
        seed(MODEL, salt=bytes(8)),
        seed(MODEL, extra=bytes(8)),
    ]
    assert len(set(seeds)) == len(seeds)
    assert len({context_id([1, 2, 3], each) for each in seeds}) == len(seeds)


@pytest.mark.parametrize(
    "make",
    [
        list,
        tuple,
        np.array,
        torch.tensor,
        lambda t: np.array(t, np.uint16),
        lambda t: np.array(t)[:],
    ],
)
def test_any_sequence_of_integers(make):
    tokens = list(range(0, 60_000, 500))
    assert context_id(make(tokens), START) == context_id(tokens, START)


@pytest.mark.parametrize(
    "tokens",
    [[-1], [2**32], [2**64], [2**63, -1], [1.0], ["1"], [True], [[1, 2]], 7, [None], [2**200]],
)
def test_what_is_no_token(tokens):
    for function in (tokens_to_bytes, lambda t: chain(t, START), lambda t: context_id(t, START)):
        with pytest.raises(ValueError, match="expected"):
            function(tokens)


def test_no_tokens():
    assert chain([], START) == []
    assert tokens_to_bytes([]) == b""
    with pytest.raises(ValueError, match="at least one token"):
        context_id([], START)


def test_fingerprint_must_be_a_digest():
    with pytest.raises(ValueError, match="32 bytes"):
        seed(b"llama")


def test_tokens_round_trip():
    tokens = [0, 1, 2**31, 2**32 - 1]
    assert tokens_to_bytes([258]) == b"\x02\x01\x00\x00"
    assert tokens_from_bytes(tokens_to_bytes(tokens)).tolist() == tokens
    with pytest.raises(BitstreamError, match="multiple of 4"):
        tokens_from_bytes(b"12345")
