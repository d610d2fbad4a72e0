import pytest

from cachegen.simulation.quality import kl_of_chunks


def test_a_recomputed_chunk_is_as_bad_as_the_worst_before():
    found = list(
        kl_of_chunks(["text", "high", "text", "low", "high", "text"], {"high": 1, "low": 3})
    )
    assert found == [0, 1, 1, 3, 1, 3]


def test_a_level_that_nobody_measured_is_no_zero():
    with pytest.raises(KeyError):
        list(kl_of_chunks(["high"], {"low": 3}))
