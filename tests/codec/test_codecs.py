"""The table of codecs, and a codec more, added as CONTRIBUTING.md tells."""

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import cachegen
from cachegen.bitstream.chunk import decode, describe, encode
from cachegen.codec import codec, codecs, levels
from cachegen.codec.codecs import Codec, DecodeRequest, EncodeRequest, codec_of, names
from cachegen.codec.encoded import EncodedChunk, blank_chunk
from cachegen.codec.levels import LOSSLESS, EncodingLevel
from cachegen.codec.matrix import plane_shapes
from cachegen.codec.memory import planes_bytes
from cachegen.contexts import needs
from cachegen.kvcache import KVCache
from cachegen.policy.fixed import Fixed

SOURCE = Path(cachegen.__file__).parent


def encode_half(kv: KVCache, request: EncodeRequest) -> EncodedChunk:
    """Float16 instead of whatever it was."""
    rows = torch.cat([plane.half().flatten() for plane in kv.planes()])
    arrays = {"rows": rows.view(torch.uint8).numpy()}
    return replace(blank_chunk(kv, request.level), arrays=arrays)


def decode_half(chunk: EncodedChunk, request: DecodeRequest) -> KVCache:
    shapes = plane_shapes(chunk.geometry, chunk.tokens_held)
    sizes = [heads * tokens * dim for heads, tokens, dim in shapes]
    pieces = np.split(chunk.arrays["rows"].view(np.float16), np.cumsum(sizes)[:-1])
    planes = [
        torch.tensor(piece).view(shape).to(chunk.geometry.dtype)
        for piece, shape in zip(pieces, shapes, strict=True)
    ]
    made = KVCache(tuple(planes[::2]), tuple(planes[1::2]), chunk.num_tokens, chunk.start)
    if request.out is None:
        return made
    for plane, decoded in zip(request.out.planes(), made.planes(), strict=True):
        plane.copy_(decoded)
    return request.out


@pytest.fixture
def half(monkeypatch):
    added = Codec("half", encode_half, decode_half, lambda chunk, given: planes_bytes(chunk))
    monkeypatch.setattr(codecs, "CODECS", [*codecs.CODECS, added])
    known = (*levels.SELF_CONTAINED[:-1], EncodingLevel("half", "half"), levels.SELF_CONTAINED[-1])
    for module in (levels, codec, needs):
        monkeypatch.setattr(module, "SELF_CONTAINED", known)


def test_a_codec_more_needs_its_functions_and_a_line_in_the_table(half, make_cache, tmp_path):
    kv = make_cache("gqa", 70, torch.float32)
    data = encode(kv, level="half")
    assert describe(data).chunk.codec == "half"
    expected = [plane.half().float() for plane in kv.planes()]
    assert all(map(torch.equal, decode(data).planes(), expected))
    tokens = range(70)
    store = cachegen.open_store(tmp_path)
    cachegen.save(kv, tokens=tokens, store=store, levels=["half"], fingerprint=bytes(32))
    loaded = cachegen.load(tokens, store=store, fingerprint=bytes(32), controller=Fixed("half"))
    assert [chunk.level for chunk in loaded.chunks] == ["half"]
    assert all(map(torch.equal, loaded.kv.planes(), expected))


def test_what_no_codec_is_called_is_said():
    with pytest.raises(ValueError, match=r"expected one of the codecs raw, packed, .* got 'half'"):
        codec_of("half")


def test_places_in_the_table_are_those_of_the_format():
    expected = ("raw", "packed", "lossless", "plain", "paper", "transform", "adaptive")
    assert names() == expected
    assert [codec_of(name).needs_tokens for name in expected] == [
        name == "transform" for name in expected
    ]


def test_nobody_else_asks_a_codec_for_its_name():
    """Outside the codec layer no codec that needs anything is known by its name."""
    asking = []
    for folder in ("bitstream", "contexts", "loading", "policy", "simulation", "engines"):
        for file in (SOURCE / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Compare):
                    sides = [node.left, *node.comparators]
                    constants = [side.value for side in sides if isinstance(side, ast.Constant)]
                    asking += [(file.name, c) for c in constants if c in set(names()) - {LOSSLESS}]
    assert asking == []
