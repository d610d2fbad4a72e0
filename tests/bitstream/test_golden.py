"""The golden files: integers give exactly these bytes, and these bytes give these caches."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cachegen.bitstream.chunk import decode
from cachegen.bitstream.format import pack, unpack
from cachegen.bitstream.manifest import read_manifest
from cachegen.codec.blocks import decode_block
from cachegen.codec.profile import read_profile

FOLDER = Path(__file__).parents[1] / "golden"
MAKE = SimpleNamespace(**runpy.run_path(str(FOLDER / "make.py")))
EXACT = ("raw", "lossless")


def profile_of(name: str):
    path = FOLDER / f"{name}.profile"
    return read_profile(path) if path.exists() else None


@pytest.mark.parametrize("name", MAKE.MAKERS)
def test_integers_give_these_bytes(name):
    assert pack(MAKE.MAKERS[name]().chunk) == (FOLDER / f"{name}.cgkv").read_bytes()


@pytest.mark.parametrize("name", MAKE.MAKERS)
def test_bytes_give_these_symbols(name):
    golden = MAKE.MAKERS[name]()
    chunk = unpack((FOLDER / f"{name}.cgkv").read_bytes())
    assert len(chunk.blocks) == len(golden.symbols)
    for block, symbols, ids in zip(chunk.blocks, golden.symbols, golden.table_ids, strict=True):
        found = decode_block(block, ids, golden.frequencies, threads=1)
        np.testing.assert_array_equal(found.columns(0, len(ids)), symbols)


@pytest.mark.parametrize("name", MAKE.MAKERS)
def test_bytes_give_this_cache(name):
    data = (FOLDER / f"{name}.cgkv").read_bytes()
    kv = decode(data, profile=profile_of(name), tokens=MAKE.TOKENS)
    expected = load_file(FOLDER / f"{name}.safetensors")
    assert (kv.start, kv.num_tokens) == (MAKE.START, MAKE.NUM_TOKENS)
    tolerance = 0.0 if name.startswith(EXACT) else 1e-5
    for found, plane in zip(kv.planes(), expected.values(), strict=True):
        assert found.dtype == plane.dtype
        torch.testing.assert_close(found.float(), plane.float(), rtol=tolerance, atol=tolerance)


def test_manifest():
    data = (FOLDER / "manifest.json").read_bytes()
    assert MAKE.manifest().to_bytes() == data
    assert read_manifest(data) == MAKE.manifest()


def test_manifest_of_kinds():
    data = (FOLDER / "manifest-kinds.json").read_bytes()
    assert MAKE.manifest_of_kinds().to_bytes() == data
    assert read_manifest(data) == MAKE.manifest_of_kinds()


def test_every_file_has_a_maker():
    stems = {path.stem for path in FOLDER.iterdir() if path.suffix in (".cgkv", ".profile")}
    assert stems == set(MAKE.MAKERS)
