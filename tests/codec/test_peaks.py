"""Decoding takes no more memory than it says beforehand, whatever a chunk claims."""

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from cachegen.codec.codec import decode_chunk
from cachegen.codec.codecs import DecodeRequest, codec_of, names
from cachegen.codec.memory import planes_bytes
from cachegen.errors import BitstreamError
from tests.codec.peaks import CASES, Case, Peak

# Stacks of threads, objects of planes, and what the C library keeps of what was freed: up to 25 MiB
# were measured.
SLACK = 40 << 20
QUICK = (
    "raw",
    "packed",
    "lossless-float8",
    "plain-rotated",
    "plain-many-rotations",
    "plain-no-escapes",
    "paper",
    "adaptive-wide",
    "transform",
)
SLOW = tuple(name for name in CASES if name not in QUICK)


def measured(chosen: tuple[str, ...]) -> list[Peak]:
    command = [sys.executable, "-m", "tests.codec.peaks", *chosen]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return [Peak(**json.loads(line)) for line in done.stdout.splitlines()]


def check(chosen: tuple[str, ...]) -> None:
    peaks = measured(chosen)
    assert [peak.name for peak in peaks] == list(chosen)
    over = [peak for peak in peaks if peak.taken > peak.planes + peak.working + SLACK]
    assert over == []
    assert [p.name for p in peaks if bool(p.error) != CASES[p.name]().fails] == []


def test_every_codec_is_measured():
    assert {CASES[name]().chunk.codec for name in QUICK} == set(names())


def test_what_hostile_chunks_take():
    check(QUICK)


@pytest.mark.slow  # fifteen more of up to a second each
def test_what_more_hostile_chunks_take():
    check(SLOW)


@pytest.mark.parametrize("make", [CASES[name] for name in QUICK], ids=QUICK)
def test_a_limit_holds_for_all_memory(make: Callable[[], Case]):
    case = make()
    request = DecodeRequest(case.profile, case.tokens)
    needed = codec_of(case.chunk.codec).working_bytes(case.chunk, request)
    limit = planes_bytes(case.chunk) + needed - 1
    with pytest.raises(BitstreamError, match="exceed the limit") as caught:
        decode_chunk(case.chunk, profile=case.profile, tokens=case.tokens, max_bytes=limit)
    assert caught.value.field == "geometry"
