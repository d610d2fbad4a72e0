import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from cachegen.codec.codec import encode_chunk
from cachegen.codec.levels import EncodingLevel, Quality
from cachegen.codec.profile import Profile, read_profile
from cachegen.codec.rope import Rope, RopeMap
from cachegen.codec.tables import table_frequencies
from cachegen.errors import BitstreamError
from cachegen.kvcache import Geometry, PlaneShape


@pytest.fixture(scope="module")
def profile(profile_of):
    return profile_of("mqa", torch.bfloat16, "plain")


def rewritten(profile, *, tensors=None, **described):
    """The profile's file with other tensors (None removes one) or other metadata."""
    data = profile.file_bytes
    size = int.from_bytes(data[:8], "little")
    metadata = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["profile"])
    changed = {**load(data), **(tensors or {})}
    kept = {name: tensor for name, tensor in changed.items() if tensor is not None}
    return save(kept, metadata={"profile": json.dumps({**metadata, **described})})


@pytest.mark.parametrize("preset", ("plain", "paper"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16))
def test_a_profile_comes_back(profile_of, tmp_path, preset, dtype):
    profile = profile_of("mixed", dtype, preset)
    path = tmp_path / "a.safetensors"
    path.write_bytes(profile.file_bytes)
    for found in (read_profile(profile.file_bytes), read_profile(path), read_profile(str(path))):
        assert found.hash == profile.hash
        for name in (
            "codec",
            "fingerprint",
            "geometry",
            "levels",
            "default_level",
            "rope",
            "notes",
        ):
            assert getattr(found, name) == getattr(profile, name)
        for name in ("scales", "means", "frequencies"):
            assert np.array_equal(getattr(found, name), getattr(profile, name))
        for level in profile.levels:
            one, other = found.model(level.name), profile.model(level.name)
            assert np.array_equal(one.table_ids, other.table_ids)
            assert np.array_equal(one.steps, other.steps)


def test_a_transform_comes_back(profile_of):
    profile = profile_of("mixed", torch.bfloat16, "transform")
    found = read_profile(profile.file_bytes)
    assert found.hash == profile.hash
    assert found.num_active == profile.num_active
    assert [level.bound for level in found.levels] == [level.bound for level in profile.levels]
    one, other = profile.transform, found.transform
    for name in ("num_sinks", "unit", "ood_score"):
        assert getattr(one, name) == getattr(other, name)
    for table, same in zip(one.features, other.features, strict=True):
        assert np.array_equal(table, same)
    for group, same in zip(one.groups, other.groups, strict=True):
        assert group.planes == same.planes
        for name in ("means", "prediction", "synthesis", "analysis", "variances"):
            assert np.array_equal(getattr(group, name), getattr(same, name))


def test_what_was_read_writes_the_same_file(profile):
    found = read_profile(profile.file_bytes)
    assert replace(found).file_bytes == profile.file_bytes


def test_a_profile_that_was_read_codes_the_same(profile, make_cache):
    kv = make_cache("mqa", 50, torch.bfloat16, seed=4)
    found = read_profile(profile.file_bytes)
    one, other = (encode_chunk(kv, profile=p) for p in (profile, found))
    assert one.profile_hash == other.profile_hash
    assert one.blocks[0].words.tobytes() == other.blocks[0].words.tobytes()


def test_the_hash_is_the_same_everywhere():
    """Names of profiles are in stored chunks: they must not depend on process or machine."""
    tables = table_frequencies(np.eye(3, 256, 120, dtype=np.int64), margin=2, escape=True)
    profile = Profile(
        codec="plain",
        fingerprint=bytes(range(32)),
        geometry=Geometry((PlaneShape(1, 2), PlaneShape(1, 1)), torch.bfloat16),
        levels=(EncodingLevel("low", "plain", 0.5, Quality(0.25, 0.125, 0.5, 7)),),
        default_level="low",
        rope=RopeMap((Rope((1.0,)),), (0, None)),
        scales=np.array([1.5, 2.5], dtype=np.float32),
        means=np.array([0.5, -0.5, 0.25], dtype=np.float32),
        frequencies=tables,
        table_ids=(np.array([0, 2, 1]),),
        notes={"b": "2", "a": "1"},
    )
    assert profile.hash.hex() == (
        "f917b98a69e1331646124e939fbc060d51e04cbc3ebfccd44035b39f5648cdad"
    )
    assert read_profile(profile.file_bytes).hash == profile.hash


def test_everything_counts_for_the_hash(profile):
    others = (
        replace(profile, notes={"text": "x"}),
        replace(profile, fingerprint=bytes(32)),
        replace(profile, default_level="low"),
        replace(profile, scales=profile.scales * 2),
        replace(profile, table_ids=profile.table_ids[::-1]),
    )
    assert len({profile.hash, *(other.hash for other in others)}) == 1 + len(others)


def test_unknown_levels(profile):
    with pytest.raises(ValueError, match="got 'packed'"):
        profile.level("packed")


def test_every_truncation_is_refused(profile):
    data = profile.file_bytes
    for size in (*range(64), *range(64, len(data), 97), len(data) - 1):
        with pytest.raises(BitstreamError):
            read_profile(data[:size])
    with pytest.raises(BitstreamError):
        read_profile(data + b"\0")


def read_or_refuse(data, profile):
    """Damage is noticed, or makes a profile of another name; nothing else happens."""
    try:
        found = read_profile(data)
    except BitstreamError:
        return
    assert found.hash != profile.hash
    for level in found.levels:
        assert np.isfinite(found.model(level.name).steps).all()


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_flipped_bytes(profile, data):
    damaged = bytearray(profile.file_bytes)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place] ^= data.draw(st.integers(1, 255))
    if bytes(damaged) != profile.file_bytes:
        read_or_refuse(bytes(damaged), profile)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=5,
)
KEYS = ("format", "codec", "fingerprint", "dtype", "planes", "levels", "default_level", "notes")


@settings(max_examples=50, deadline=None)
@given(key=st.sampled_from(KEYS), value=JSON)
def test_any_metadata(profile, key, value):
    read_or_refuse(rewritten(profile, **{key: value}), profile)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(("name", "step", "quality", "codec", "kl")),
    value=JSON,
    index=st.integers(0, 4),
)
def test_any_level(profile, name, value, index):
    size = int.from_bytes(profile.file_bytes[:8], "little")
    header = json.loads(profile.file_bytes[8 : 8 + size])
    levels = json.loads(header["__metadata__"]["profile"])["levels"]
    owner = levels[index]["quality"] if name == "kl" else levels[index]
    owner[name] = value
    read_or_refuse(rewritten(profile, levels=levels), profile)


@pytest.mark.parametrize(
    ("described", "message"),
    (
        ({"format": "cachegen-profile-9"}, "format: expected one of .*cachegen-profile-1"),
        ({"codec": "packed"}, "codec: expected one of"),
        ({"dtype": "int8"}, "dtype: expected one of"),
        ({"fingerprint": "00"}, "fingerprint: expected 32 bytes"),
        ({"planes": [[1, 8]] * 3 + [[-1, -8]]}, "planes: expected sizes"),
        ({"planes": [[1, 8]] * 3 + [[1, 2**40]]}, "planes: expected sizes"),
        ({"planes": [[1, 8]] * 3}, "planes: expected keys and values of 1 to 4096 layers, got 3"),
        ({"planes": [[1, 8]] * 3 + [[1, 9]]}, "expected 1 dimensions, 33 entries"),
        ({"planes": [[1, 8]] * 4000}, "expected 1 dimensions, 4000 entries"),
        ({"planes": []}, "planes: expected keys and values of 1 to 4096 layers, got 0"),
        ({"planes": [[1, 8]] * 8194}, "planes: expected keys and values of 1 to 4096 layers"),
        ({"planes": [[2**12, 2**12], [1, 1]]}, "planes: expected 1 to 16777216 values per token"),
        ({"planes": [[0, 8], [8, 0]]}, "planes: expected 1 to 16777216 values per token"),
        ({"noise_floor": float("nan")}, "finite numbers, got NaN"),
        ({"default_level": "best"}, "not a profile"),
    ),
)
def test_metadata_that_does_not_fit(profile, described, message):
    with pytest.raises(BitstreamError, match=message):
        read_profile(rewritten(profile, **described))


@pytest.mark.parametrize(
    ("change", "message"),
    (
        (lambda level: level | {"name": "high"}, "distinct names"),
        (lambda level: level | {"name": "raw"}, "distinct names"),
        (lambda level: level | {"name": "Low!"}, "distinct names"),
        (lambda level: level | {"step": 0}, "no step"),
        (lambda level: level | {"step": -1}, "no step"),
        (lambda level: level | {"step": float("nan")}, "finite numbers, got NaN"),
        (lambda level: level | {"step": 1e300}, "no step"),
        (lambda level: level | {"step": 1e-300}, "no step"),
        (lambda level: level | {"bound": -1.0}, "no bound"),
        (lambda level: level | {"bound": float("inf")}, "finite numbers, got Infinity"),
    ),
)
def test_levels_that_do_not_fit(profile, change, message):
    levels = [
        {"name": level.name, "step": level.step, "bound": 0.0, "quality": None, "domains": {}}
        for level in profile.levels
    ]
    levels[0] = change(levels[0])
    ids = load(profile.file_bytes)["table_ids.lowest"]
    tensors = {f"table_ids.{levels[0]['name']}": ids}
    with pytest.raises(BitstreamError, match=message):
        read_profile(rewritten(profile, tensors=tensors, levels=levels))


@pytest.mark.parametrize("value", (np.nan, np.inf))
@pytest.mark.parametrize("name", ("means", "steps", "rope_frequencies"))
def test_tensors_that_are_not_finite(profile, name, value):
    tensor = load(profile.file_bytes)[name]
    tensor[0] = value
    with pytest.raises(BitstreamError, match=name):
        read_profile(rewritten(profile, tensors={name: tensor}))


@pytest.mark.parametrize("name", ("means", "steps", "supports", "frequencies", "rope_frequencies",
    "rope_shapes", "rope_of_plane", "table_ids.lowest", "table_ids.highest"))  # fmt: skip
def test_tensors_of_another_type_or_shape(profile, name):
    tensor = load(profile.file_bytes)[name]
    wrong = (
        None,
        tensor.astype(np.float64),
        tensor.astype(np.int32),
        tensor[:-1],
        tensor.reshape(1, *tensor.shape),
        tensor.ravel()[:1].reshape(()),
    )
    for other in wrong:
        with pytest.raises(BitstreamError):
            read_profile(rewritten(profile, tensors={name: other}))


def test_no_profile_at_all(tmp_path):
    for data in (b"", b"{}", save({}), save({}, metadata={"profile": "[]"}), bytes(100)):
        with pytest.raises(BitstreamError, match="not a profile"):
            read_profile(data)
    with pytest.raises(FileNotFoundError):
        read_profile(tmp_path / "none")
