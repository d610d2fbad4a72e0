import itertools
from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cachegen.kvcache import DTYPES, Geometry, KVCache, PlaneShape


def make(num_tokens=10, *, held=None, start=0, heads=2, dims=(4, 3), dtype=torch.float32):
    """Two layers of distinct numbers; the second holds `held` tokens."""
    layers, first = [], 0
    for tokens in (num_tokens, num_tokens if held is None else held):
        planes = []
        for dim in dims:
            size = heads * tokens * dim
            numbers = torch.arange(first, first + size, dtype=torch.float32) / 16
            planes.append(numbers.to(dtype).reshape(heads, tokens, dim))
            first += size
        layers.append(planes)
    keys, values = zip(*layers, strict=True)
    return KVCache(keys, values, num_tokens, start)


def assert_same(left, right):
    assert (left.start, left.num_tokens) == (right.start, right.num_tokens)
    for a, b in zip(left.planes(), right.planes(), strict=True):
        assert a.equal(b)


def test_what_a_cache_says_of_itself():
    kv = make(10, start=5, dtype=torch.bfloat16)
    assert (kv.start, kv.stop, kv.num_tokens, kv.num_layers) == (5, 15, 10, 2)
    assert kv.dtype == torch.bfloat16 and kv.device == torch.device("cpu")
    assert kv.num_values == 2 * 10 * 2 * (4 + 3)
    assert kv.size_bytes == 2 * kv.num_values
    assert kv.is_complete
    assert [
        p is q for p, q in zip(kv.planes(), [kv.keys[0], kv.values[0], kv.keys[1]], strict=False)
    ]


def test_geometry_is_shape_and_dtype():
    kv = make(10)
    assert kv.geometry == Geometry((PlaneShape(2, 4), PlaneShape(2, 3)) * 2, torch.float32)
    assert kv.geometry.num_layers == 2
    assert kv.geometry.values_per_token == 28
    assert kv.geometry == make(3, start=9, held=1).geometry
    assert kv.geometry != make(10, dtype=torch.float16).geometry
    assert kv.geometry != make(10, heads=1).geometry


@pytest.mark.parametrize("dims", ((24, 8), (24, 0)))
def test_a_latent_plays_both_parts(dims):
    kv = make(6, heads=1, dims=dims)
    assert kv.geometry.planes[:2] == (PlaneShape(1, 24), PlaneShape(1, dims[1]))
    assert_same(KVCache.concat([kv.slice(0, 2), kv.slice(2, 6)]), kv)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype):
    assert make(dtype=dtype).dtype == dtype


@settings(max_examples=60, deadline=None)
@given(
    num_tokens=st.integers(0, 9),
    window=st.integers(0, 9),
    start=st.integers(0, 100),
    data=st.data(),
)
def test_a_slice_holds_the_tokens_it_names(num_tokens, window, start, data):
    held = min(window, num_tokens)
    kv = make(num_tokens, held=held, start=start)
    first = data.draw(st.integers(0, num_tokens))
    stop = data.draw(st.integers(first, num_tokens))
    part = kv.slice(first, stop)
    assert (part.start, part.stop, part.num_tokens) == (start + first, start + stop, stop - first)
    assert part.keys[0].equal(kv.keys[0][:, first:stop])
    missing = num_tokens - held
    own = range(max(first, missing), max(stop, missing))
    expected = kv.values[1][:, [token - missing for token in own]]
    assert part.values[1].equal(expected)


@settings(max_examples=60, deadline=None)
@given(
    num_tokens=st.integers(0, 9),
    cuts=st.lists(st.integers(0, 9), max_size=3),
    start=st.integers(0, 50),
)
def test_slices_join_to_the_whole(num_tokens, cuts, start):
    kv = make(num_tokens, start=start)
    bounds = [0, *sorted(min(cut, num_tokens) for cut in cuts), num_tokens]
    parts = [kv.slice(a, b) for a, b in itertools.pairwise(bounds)]
    assert_same(KVCache.concat(parts), kv)


@settings(max_examples=40, deadline=None)
@given(num_tokens=st.integers(1, 9), window=st.integers(0, 9), cut=st.integers(0, 9))
def test_windowed_slices_join_while_no_token_is_missing_between(num_tokens, window, cut):
    held, cut = min(window, num_tokens), min(cut, num_tokens)
    kv = make(num_tokens, held=held)
    left, right = kv.slice(0, cut), kv.slice(cut, num_tokens)
    assert_same(KVCache.concat([left, right]), kv)


def test_a_window_after_its_tokens_cannot_be_joined():
    left, right = make(4), make(4, held=2, start=4)
    with pytest.raises(ValueError, match=r"layer 1: tokens are missing .* \(2 of 4"):
        KVCache.concat([left, right])


def test_slices_are_views():
    kv = make(10)
    part = kv.slice(2, 7)
    part.keys[0][0, 0, 0] = -1
    assert kv.keys[0][0, 2, 0] == -1
    assert part.values[1].untyped_storage().data_ptr() == kv.values[1].untyped_storage().data_ptr()


def test_one_part_is_returned_as_it_is():
    kv = make(3)
    assert KVCache.concat([kv]) is kv


def test_moving_to_where_it_is_copies_nothing():
    kv = make(3)
    moved = kv.to("cpu")
    assert all(a is b for a, b in zip(kv.planes(), moved.planes(), strict=True))
    assert moved.geometry == kv.geometry and moved.num_tokens == 3


def test_from_layers_takes_the_longest_layer():
    keys = [torch.zeros((1, tokens, 2)) for tokens in (3, 8, 5)]
    kv = KVCache.from_layers([(key, key) for key in keys], start=4)
    assert (kv.num_tokens, kv.start, kv.is_complete) == (8, 4, False)
    assert kv.keys[1] is keys[1]


def test_a_cache_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        make().num_tokens = 3


Z = torch.zeros


@pytest.mark.parametrize(
    ("keys", "values", "tokens", "error", "message"),
    (
        ((), (), 0, ValueError, "at least one"),
        ((Z(1, 2, 3),), (), 2, ValueError, "got 1 and 0"),
        ((Z(1, 1, 2, 3),), (Z(1, 1, 2, 3),), 2, ValueError, "drop the batch dimension"),
        ((Z(1, 2, 3),), (Z(2, 3),), 2, ValueError, "drop the batch dimension"),
        ((Z(1, 2, 3),), (Z(1, 1, 3),), 2, ValueError, "equally many tokens"),
        ((Z(1, 3, 3),), (Z(1, 3, 3),), 2, ValueError, "at most 2"),
        ((Z(1, 2, 3),), (Z(1, 2, 3),), -1, ValueError, "must be >= 0"),
        ((Z(1, 2, 3),), (Z(1, 2, 3).half(),), 2, TypeError, "one dtype"),
        ((Z(1, 2, 3).double(),), (Z(1, 2, 3).double(),), 2, TypeError, "float64"),
        ((Z(1, 2, 3), Z(1, 2, 3, device="meta")), (Z(1, 2, 3),) * 2, 2, TypeError, "one device"),
    ),
)
def test_planes_that_do_not_fit(keys, values, tokens, error, message):
    with pytest.raises(error, match=message):
        KVCache(keys, values, tokens)


def test_mistakes():
    kv = make(10)
    with pytest.raises(ValueError, match="start and num_tokens"):
        make(start=-1)
    for first, stop in ((-1, 3), (3, 2), (0, 11)):
        with pytest.raises(ValueError, match="first <= stop <= 10"):
            kv.slice(first, stop)
    with pytest.raises(ValueError, match="at least one cache"):
        KVCache.concat([])
    with pytest.raises(ValueError, match="cannot join"):
        KVCache.concat([kv, make(3, heads=1, start=10)])
    with pytest.raises(ValueError, match=r"cannot join tokens 0\.\.10 with 11\.\.14"):
        KVCache.concat([kv, make(3, start=11)])
    with pytest.raises(ValueError, match="at least one"):
        KVCache.from_layers([])
