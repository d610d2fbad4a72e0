"""Fuzz target of the Python side: chunks, manifests and profiles that nobody vouches for.

The first byte chooses the parser. Chunks are mutated and then sealed again, so that the checksums
do not keep the fuzzer out. Any exception but those of cachegen is a finding, and so is an accepted
input that would be written back in another way, or that takes more memory than it may: that is what
`-rss_limit_mb` finds.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from random import Random

import atheris
import numpy as np
import torch
from reseal import reseal

with atheris.instrument_imports(include=["cachegen"]):
    from cachegen.bitstream.chunk import decode
    from cachegen.bitstream.format import pack, unpack
    from cachegen.bitstream.manifest import read_manifest
    from cachegen.codec.profile import read_profile
    from cachegen.errors import CacheGenError

MAX_BYTES = 1 << 20
GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
PROFILES = {profile.hash: profile for profile in map(read_profile, GOLDEN.glob("*.profile"))}


def fuzz_chunk(data: bytes) -> None:
    chunk = unpack(data, max_bytes=MAX_BYTES)
    if pack(chunk) != data:
        raise AssertionError("accepted a chunk that would be written in another way")
    tokens = np.arange(chunk.num_tokens)  # those of the golden files
    profile = PROFILES.get(chunk.profile_hash)
    kv = decode(data, profile=profile, tokens=tokens, max_bytes=MAX_BYTES, threads=1)
    if kv.size_bytes > MAX_BYTES:
        raise AssertionError(f"decoded {kv.size_bytes} bytes")


def fuzz_manifest(data: bytes) -> None:
    if read_manifest(data).to_bytes() != data:
        raise AssertionError("accepted a manifest that would be written in another way")


def fuzz_profile(data: bytes) -> None:
    read_profile(data)


PARSERS = (fuzz_chunk, fuzz_manifest, fuzz_profile)


def test_one_input(data: bytes) -> None:
    if not data:
        return
    try:
        PARSERS[data[0] % len(PARSERS)](data[1:])
    except CacheGenError:
        return


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """A mutation as libFuzzer makes it, half of the time of a piece whose length stays.

    Chunks are sealed again afterwards.
    """
    random = Random(seed)
    if data and random.random() < 0.5:
        first, stop = sorted(random.choices(range(len(data) + 1), k=2))
        piece = atheris.Mutate(data[first:stop], max(stop - first, 1))
        mutated = data[:first] + piece.ljust(stop - first, b"\0")[: stop - first] + data[stop:]
    else:
        mutated = atheris.Mutate(data, max_size)
    if mutated and mutated[0] % len(PARSERS) == 0:
        return mutated[:1] + reseal(mutated[1:])
    return mutated


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    atheris.Setup(sys.argv, test_one_input, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
