"""Rotations found by asking the model, checked on keys captured from an ordinary text."""

import math

import pytest
import torch

import cachegen
from cachegen.codec.rope import Rope, RopeMap, rotate
from cachegen.engines.transformers import rope as hf_rope
from cachegen.engines.transformers.cache import capture
from cachegen.engines.transformers.rope import rope_map

KEYS = (0, None, 0, None, 0, None, 0, None)
EXPECTED = {
    "llama": (KEYS, [(8, False)]),
    "llama-llama3": (KEYS, [(8, False)]),
    "llama-yarn": (KEYS, [(8, False)]),
    "qwen3": (KEYS, [(8, False)]),
    "mistral": (KEYS, [(8, False)]),
    "gemma3": ((0, None, 1, None, 0, None, 1, None), [(8, False), (8, False)]),
    "stablelm": (KEYS, [(2, False)]),
    "glm": (KEYS, [(4, True)]),
    "deepseek-v2": ((None, 0) * 4, [(4, True)]),
    "deepseek-v3": ((None, 0) * 4, [(4, False)]),
    "smollm3": ((0, None, 0, None, 0, None, None, None), [(8, False)]),
    "gpt-oss": (KEYS, [(8, False)]),
    "gptj": (KEYS, [(4, True)]),
    "codegen": (KEYS, [(4, True)]),
    "roformer": (KEYS, [(8, True)]),
    "nanochat": (KEYS, [(8, False)]),
}


def rows(plane):
    """(heads, tokens, dim) to float32 (tokens, heads, dim)."""
    return plane.transpose(0, 1).float().contiguous()


def spread_over_tokens(turned):
    """Share of the energy that differs between tokens."""
    return float((turned - turned.mean(0)).square().sum() / turned.square().sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", EXPECTED)
def test_planes_and_pairings(tiny, name, dtype):
    of_plane, shapes = EXPECTED[name]
    found = rope_map(tiny(name, dtype=dtype))
    assert found.of_plane == of_plane
    assert [(len(r.inverse_frequencies), r.interleaved) for r in found.ropes] == shapes


@pytest.mark.parametrize("name", sorted(set(EXPECTED) - {"gpt-oss"}))
def test_unrotated_planes_of_a_repeated_token_do_not_depend_on_position(tiny, name):
    kv = capture(tiny(name), [7] * 200)
    found = rope_map(tiny(name))
    for index, plane in enumerate(kv.planes()):
        turned, rope = rows(plane), found.rope(index)
        if rope is not None:
            assert spread_over_tokens(turned) > 0.05
            rotate(turned, rope, torch.arange(200), inverse=True)
        assert spread_over_tokens(turned) < 1e-8


def test_the_other_pairing_would_not_do(tiny):
    plane = rows(capture(tiny("llama"), [7] * 200).keys[0])
    (rope,) = rope_map(tiny("llama")).ropes
    rotate(plane, Rope(rope.inverse_frequencies, interleaved=True), torch.arange(200), inverse=True)
    assert spread_over_tokens(plane) > 0.05


def test_llama3_frequencies_follow_the_published_rule(tiny):
    """Wavelengths above 64 / 1 are stretched 8 times, those below 64 / 4 are left alone."""
    (rope,) = rope_map(tiny("llama-llama3")).ropes
    for index, frequency in enumerate(rope.inverse_frequencies):
        plain = 10_000.0 ** (-index / 8)
        wavelength = 2 * math.pi / plain
        smooth = min(1.0, max(0.0, (64 / wavelength - 1) / 3))
        expected = (1 - smooth) * plain / 8 + smooth * plain
        assert frequency == pytest.approx(expected, rel=1e-5)


def test_frequencies_rounded_with_the_model_are_taken_as_they_are(new_model):
    model = new_model("llama").to(torch.bfloat16)
    (rope,) = rope_map(model).ropes
    exact = torch.tensor([10_000.0 ** (-index / 8) for index in range(8)])
    assert rope.inverse_frequencies == tuple(exact.bfloat16().float().tolist())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("name", "pairs"), [("gptj", 4), ("roformer", 8)])
def test_frequencies_are_read_off_tables_of_sines(new_model, name, pairs, dtype):
    """To an angle of a few roundings at the last of 512 positions."""
    (rope,) = rope_map(new_model(name).to(dtype)).ropes
    expected = [10_000.0 ** (-index / pairs) for index in range(pairs)]
    allowed = torch.finfo(dtype).eps / 100
    assert rope.inverse_frequencies == pytest.approx(expected, rel=1e-6, abs=allowed)


def test_rounding_that_adds_up_over_layers_hides_no_rotation(new_model):
    """Attention with sinks weighs the one token by a score that 16 bits round anew everywhere."""
    found = rope_map(new_model("gpt-oss", dtype=torch.bfloat16, num_hidden_layers=16))
    assert found.of_plane == (0, None) * 16


def test_rounding_is_not_taken_for_a_rotation(new_model):
    model = new_model(
        "smollm3", dtype=torch.bfloat16, no_rope_layers=[1, 0] * 8, num_hidden_layers=16
    )
    assert rope_map(model).of_plane == (0, None, None, None) * 8


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3", "deepseek-v2", "smollm3"])
def test_models_that_number_positions_themselves_are_asked_with_a_run(tiny, monkeypatch, name):
    expected = rope_map(tiny(name))
    monkeypatch.setattr(hf_rope, "accepts", lambda model, argument: False)
    assert rope_map(tiny(name)) == expected


def test_keys_that_turn_the_other_way_have_negative_frequencies(tiny):
    (rope,) = rope_map(tiny("nanochat")).ropes
    expected = [-(10_000.0 ** (-index / 8)) for index in range(8)]
    assert rope.inverse_frequencies == pytest.approx(expected, rel=1e-6)


def test_chunks_keep_a_rotation_that_turns_the_other_way(tiny):
    kv = capture(tiny("nanochat"), [7] * 64)
    found = cachegen.decode(cachegen.encode(kv, level="high", rope=rope_map(tiny("nanochat"))))
    assert spread_over_tokens(rows(found.keys[0])) > 0.05
    for got, expected in zip(found.planes(), kv.planes(), strict=True):
        torch.testing.assert_close(got, expected, atol=0.1, rtol=0)


def test_a_model_that_takes_no_such_input_keeps_its_keys(new_model, monkeypatch):
    model = new_model("llama")

    def refuse(*_, **__):
        raise KeyError("position_ids")

    monkeypatch.setattr(model.model.rotary_emb, "forward", refuse)
    assert rope_map(model) == RopeMap.none(8)


@pytest.mark.parametrize("name", ["llama-dynamic", "llama-longrope", "gpt2"])
def test_keys_stay_rotated_where_no_fixed_rotation_explains_them(tiny, name):
    found = rope_map(tiny(name))
    assert found.ropes == () and set(found.of_plane) == {None}


def test_a_lack_of_memory_is_not_taken_for_a_model_without_rotations(new_model, monkeypatch):
    model = new_model("llama")

    def out_of_memory(*args, **options):
        raise torch.OutOfMemoryError("expected room for one more pass")

    monkeypatch.setattr(model, "forward", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        rope_map(model)
