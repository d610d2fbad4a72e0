from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachegen.store.protocol import MAX_KEY_LENGTH, check_key, is_key

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
    check_key("k" * MAX_KEY_LENGTH)
    with pytest.raises(ValueError, match="at most 512"):
        check_key("k" * (MAX_KEY_LENGTH + 1))
