from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachegen.store.protocol import (
    MAX_KEY_LENGTH,
    MAX_KEY_SEGMENTS,
    MAX_SEGMENT_LENGTH,
    check_key,
    is_key,
)

ANY_TEXT = st.text(alphabet="ab.-_/\\ ~#%\x00\nÄ", max_size=12)
SEGMENT = st.text(alphabet="abcXYZ019._-", min_size=1, max_size=8).filter(
    lambda text: text not in (".", "..")
)


@given(ANY_TEXT)
def test_a_key_stays_below_its_root(text: str) -> None:
    if is_key(text):
        path = PurePosixPath(text)
        assert not path.is_absolute()
        assert ".." not in path.parts
        assert str(path) == text


@given(st.lists(SEGMENT, min_size=1, max_size=6))
def test_segments_make_a_key(segments: list[str]) -> None:
    check_key("/".join(segments))


@pytest.mark.parametrize("key", ["a\n", "a/\n", "\na", "a\x00"])
def test_line_ends_and_zeros_are_no_part_of_a_key(key: str) -> None:
    assert not is_key(key)


def test_the_longest_key() -> None:
    segments = ["k" * MAX_SEGMENT_LENGTH] * 2
    longest = "/".join([*segments, "k" * (MAX_KEY_LENGTH - 2 * (MAX_SEGMENT_LENGTH + 1))])
    check_key(longest)
    check_key("/".join("k" * MAX_KEY_SEGMENTS))
    for key in (
        f"{longest}k",
        "k" * (MAX_SEGMENT_LENGTH + 1),
        "/".join("k" * (MAX_KEY_SEGMENTS + 1)),
    ):
        with pytest.raises(ValueError, match=r"at most 16 segments .* 200 characters .* 512"):
            check_key(key)
