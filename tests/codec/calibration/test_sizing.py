import pytest
import torch

from cachegen.codec.calibration.sizing import describe_plans, plan_groups
from cachegen.kvcache import Geometry, PlaneShape


def geometry(layers, heads, dim):
    return Geometry((PlaneShape(heads, dim),) * (2 * layers), torch.bfloat16)


def test_a_small_model_is_one_group_with_every_coefficient():
    sizes = plan_groups(geometry(6, 2, 32), (2048, 1024), max_profile_mb=64)
    assert sizes.groups == (tuple(range(12)),)
    assert sizes.most_coefficients == 768
    assert sum(sizes.lag_ranks) <= 1024
    assert sizes.profile_bytes < 8e6


def test_a_large_model_is_cut_into_groups_and_keeps_to_the_size():
    sizes = plan_groups(geometry(32, 8, 128), (128_256, 1024), max_profile_mb=256)
    assert [plane for group in sizes.groups for plane in group] == list(range(64))
    assert {len(group) for group in sizes.groups} == {4}
    assert 200e6 < sizes.profile_bytes <= 256e6
    assert "MB" in sizes.describe()


def test_more_megabytes_keep_more():
    plans = [
        plan_groups(geometry(32, 8, 128), (128_256, 1024), max_profile_mb=size)
        for size in (96, 192, 384)
    ]
    kept = [plan.most_coefficients for plan in plans]
    assert kept == sorted(set(kept))


def test_layers_wider_than_any_group_stand_alone():
    sizes = plan_groups(geometry(3, 64, 128), (100, 0), max_profile_mb=1000)
    assert sizes.groups == ((0, 1), (2, 3), (4, 5))
    assert sizes.lag_ranks == ()


def test_no_group_mixes_windows():
    """Gemma 3: five layers with windows, then one without."""
    windows = [512, 512, 512, 512, 512, 0] * 3
    sizes = plan_groups(geometry(18, 1, 256), (2048, 64), max_profile_mb=64, windows=windows)
    assert [plane for group in sizes.groups for plane in group] == list(range(36))
    assert [len(group) for group in sizes.groups] == [10, 2] * 3
    wide = plan_groups(geometry(18, 1, 1024), (2048, 64), max_profile_mb=640, windows=windows)
    assert [len(group) for group in wide.groups] == [4, 4, 2, 2] * 3
    assert (
        "taken"
        in describe_plans(geometry(18, 1, 256), (2048, 64), max_profile_mb=64, windows=windows)[0]
    )
    with pytest.raises(ValueError, match="windows of 18 layers, got 2"):
        plan_groups(geometry(18, 1, 256), (2048, 64), max_profile_mb=64, windows=[512, 0])


def test_too_little_room():
    """What the error asks for is enough."""
    for one in (geometry(32, 8, 128), geometry(6, 2, 32), geometry(3, 64, 128)):
        for shape in ((128_256, 1024), (100, 0)):
            with pytest.raises(ValueError, match=r"too little .* allow at least ") as refused:
                plan_groups(one, shape, max_profile_mb=0.01)
            least = float(str(refused.value).split()[-2])
            assert plan_groups(one, shape, max_profile_mb=least).most_coefficients >= 1


@pytest.mark.parametrize("size", (0, -1, float("nan"), float("inf")))
def test_no_size_at_all(size):
    with pytest.raises(ValueError, match="some megabytes"):
        plan_groups(geometry(6, 2, 32), (2048, 1024), max_profile_mb=size)


@pytest.mark.parametrize(
    ("layers", "heads", "dim", "vocabulary"),
    ((32, 8, 128, 32_768), (32, 8, 128, 128_256), (36, 8, 128, 151_936), (42, 8, 256, 256_000)),
)
def test_the_default_size_serves_models_of_7_to_9_billion(layers, heads, dim, vocabulary):
    sizes = plan_groups(geometry(layers, heads, dim), (vocabulary, 1024), max_profile_mb=64)
    assert sizes.most_coefficients >= 40
    assert sum(sizes.lag_ranks) >= 16
    assert sizes.profile_bytes <= 64e6


def test_plans_name_what_is_taken_and_the_alternatives():
    lines = describe_plans(geometry(6, 2, 32), (2048, 1024), max_profile_mb=64)
    assert lines[0].startswith("taken: 1 groups of 6 layers, 768 coefficients")
    assert len(lines) == 3
    assert lines[2].startswith("instead: 6 groups of 1 layers, 128 coefficients")
