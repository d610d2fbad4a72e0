import numpy as np
import pytest
import torch

from cachegen.codec.calibration.checkpoint import Checkpoint
from cachegen.codec.calibration.kept import keep, load, most_rows, places_kept, save


@pytest.mark.parametrize(("num_tokens", "sinks", "most"), ((100, 4, 10), (5, 4, 1), (64, 0, 1000)))
def test_rows_are_evenly_spread_behind_the_sinks(num_tokens, sinks, most):
    places = places_kept(num_tokens, sinks, most_rows=most)
    assert 0 < len(places) <= most
    assert places[0] >= sinks and places[-1] < num_tokens
    assert len(set(np.diff(places).tolist())) <= 1 and (np.diff(places) > 0).all()
    if most >= num_tokens:
        assert len(places) == num_tokens - sinks


def test_no_rows_of_sinks_alone():
    assert len(places_kept(4, 4, most_rows=8)) == 0


def test_all_samples_together_stay_within_their_size():
    assert most_rows(11_520, 72) * 72 * 11_520 * 4 <= 1.5e9
    assert most_rows(10**9, 1000) == 16


@pytest.mark.parametrize("scale", (1.0, 1e-9, 1e6))
def test_rows_come_back_from_the_disk(tmp_path, scale):
    generator = torch.Generator().manual_seed(0)
    x = [torch.randn(7, 5, generator=generator), scale * torch.randn(7, 3, generator=generator)]
    g = [scale * torch.randn(7, width, generator=generator) for width in (5, 3)]
    checkpoint = Checkpoint(tmp_path / "kept", b"x")
    save(checkpoint, 3, keep(np.arange(9), np.arange(2, 9), x, g))
    found = load(checkpoint, 3)
    assert load(checkpoint, 2) is None
    assert found.tokens.tolist() == list(range(9)) and found.places.tolist() == list(range(2, 9))
    for kept, row in zip(found.x, x, strict=True):
        assert np.allclose(kept, row, rtol=1e-3, atol=1e-6)
    for kept, row in zip(found.g, g, strict=True):
        assert np.allclose(
            kept.astype(float) / found.gradient_scale, row, rtol=1e-2, atol=2e-5 * scale
        )
    checkpoint.drop("rows")
    assert load(checkpoint, 3) is None and not (tmp_path / "kept").exists()
