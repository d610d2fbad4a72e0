"""Decoding and reading take no more memory than is known beforehand, whatever bytes claim."""

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from cachegen.codec.codec import decode_chunk
from cachegen.codec.codecs import DecodeRequest, codec_of, names
from cachegen.codec.memory import planes_bytes
from cachegen.errors import BitstreamError
from tests.codec.peaks import CASES, READERS, Case, Peak

# Stacks of threads, objects of planes, and what the C library keeps of what was freed: up to 25 MiB
# were measured.
SLACK = 40 << 20
QUICK = (
    "raw",
    "packed",
    "lossless-float8",
    "plain-rotated",
    "plain-no-escapes",
    "paper",
    "adaptive",
    "transform",
)
SLOW = tuple(name for name in CASES if name not in QUICK)
QUICK_READERS = ("profile of tables", "chunk of blocks")
SLOW_READERS = tuple(name for name in READERS if name not in QUICK_READERS)


def measured(chosen: tuple[str, ...]) -> list[Peak]:
    command = [sys.executable, "-m", "tests.codec.peaks", *chosen]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return [Peak(**json.loads(line)) for line in done.stdout.splitlines()]


def check(chosen: tuple[str, ...]) -> None:
    peaks = measured(chosen)
    assert [peak.name for peak in peaks] == list(chosen)
    over = [peak for peak in peaks if peak.taken > peak.planes + peak.working + SLACK]
    assert over == []
    decoded = [peak for peak in peaks if peak.name in CASES]
    assert [peak for peak in decoded if bool(peak.error) != CASES[peak.name]().fails] == []


def test_every_codec_is_measured():
    assert {CASES[name]().chunk.codec for name in QUICK} == set(names())


def test_what_hostile_chunks_and_profiles_take():
    check(QUICK + QUICK_READERS)


@pytest.mark.slow  # twenty more of up to a second each
def test_what_more_of_them_take():
    check(SLOW + SLOW_READERS)


@pytest.mark.parametrize("make", [CASES[name] for name in QUICK], ids=QUICK)
def test_a_limit_holds_for_all_memory(make: Callable[[], Case]):
    case = make()
    request = DecodeRequest(case.profile, case.tokens)
    needed = codec_of(case.chunk.codec).working_bytes(case.chunk, request)
    limit = planes_bytes(case.chunk) + needed - 1
    with pytest.raises(BitstreamError, match="exceed the limit") as caught:
        decode_chunk(case.chunk, profile=case.profile, tokens=case.tokens, max_bytes=limit)
    assert caught.value.field == "geometry"
