"""Images in a context: named by the caller, read with the model's inputs, never guessed."""

import pytest
import torch
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    SiglipVisionConfig,
)

from cachegen.engines.transformers import load_context, save_context
from cachegen.engines.transformers.inputs import placeholders
from cachegen.engines.transformers.media import whole_media
from cachegen.errors import UnsupportedCache
from cachegen.store import open_store

IMAGE, IMAGE_TOKENS = 120, 16
GREEDY = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}


@pytest.fixture
def store():
    return open_store("memory:")


def text(*, before=10, after=150):
    ids = torch.randint(3, IMAGE, (before + after,), generator=torch.Generator().manual_seed(2))
    image = torch.full((IMAGE_TOKENS,), IMAGE)
    return torch.cat((ids[:before], image, ids[before:]))


def image(seed):
    return torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def own_cache(model, ids, **inputs):
    with torch.no_grad():
        return model(ids[None], use_cache=True, **inputs).past_key_values


def check_planes(kv, cache):
    planes = [plane[0] for layer in cache.layers for plane in (layer.keys, layer.values)]
    for got, own in zip(kv.planes(), planes, strict=True):
        torch.testing.assert_close(
            got[:, -own.shape[1] :], own[:, : kv.num_tokens], atol=5e-5, rtol=0
        )


@pytest.mark.parametrize(("after", "loadable"), [(0, 50), (3, 50), (150, 192)])
def test_a_context_with_an_image_is_what_the_model_computes(llava, store, after, loadable):
    """Loaded as far as chunks are shared, but no image in part."""
    ids, pixels = text(before=50, after=after), image(1)
    save_context(llava, ids, store=store, inputs={"pixel_values": pixels}, extra=b"one")
    more = torch.cat((ids, torch.tensor([7, 8, 9])))
    loaded = load_context(llava, more, store=store, level="lossless", extra=b"one")
    assert loaded.num_tokens == loaded.cache.get_seq_length() == loadable
    check_planes(loaded.result.kv, own_cache(llava, more, pixel_values=pixels))


@pytest.mark.parametrize("num_tokens", [100, 300])
def test_an_image_before_the_switch_of_rotations(llava, store, num_tokens):
    """All of a text longer than the original length has the long one's frequencies."""
    settings = llava.config.text_config.to_dict()
    settings["rope_parameters"] = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 8,
        "long_factor": [4.0] * 8,
        "original_max_position_embeddings": 128,
        "factor": 4.0,
    }
    config = type(llava.config)(**{**llava.config.to_dict(), "text_config": settings})
    model = type(llava)(config).eval()
    ids, inputs = text(after=num_tokens - 26), {"pixel_values": image(1)}
    save_context(model, ids, store=store, inputs=inputs, extra=b"one")
    loaded = load_context(model, ids, store=store, level="lossless", extra=b"one")
    assert loaded.num_tokens == num_tokens - 1
    check_planes(loaded.result.kv, own_cache(model, ids, **inputs))


def test_inputs_without_a_place_for_them_are_refused(llava, tiny, tokens, store):
    pixels = {"pixel_values": image(1)}
    with pytest.raises(
        ValueError, match=r"stand for what `inputs` hold \(pixel_values\), one of 120"
    ):
        save_context(llava, text()[26:], store=store, inputs=pixels, extra=b"one")
    with pytest.raises(ValueError, match="which this model's configuration does not name"):
        save_context(tiny("llama"), tokens, store=store, inputs=pixels, extra=b"one")
    assert list(store.list()) == []


def test_generation_goes_on_from_it(llava, store):
    ids, pixels = text(), image(1)
    mask = torch.ones_like(ids[None])
    expected = llava.generate(ids[None], pixel_values=pixels, attention_mask=mask, **GREEDY)
    save_context(llava, ids, store=store, inputs={"pixel_values": pixels}, extra=b"one")
    loaded = load_context(llava, ids, store=store, level="lossless", extra=b"one")
    assert loaded.num_tokens == len(ids) - 1
    got = llava.generate(ids[None], past_key_values=loaded.cache, attention_mask=mask, **GREEDY)
    assert torch.equal(got, expected)


def test_another_image_is_another_context(llava, store):
    ids = text()
    for seed, name in ((1, b"one"), (2, b"two")):
        inputs = {"pixel_values": image(seed)}
        save_context(llava, ids, store=store, inputs=inputs, extra=name)
    for seed, name in ((1, b"one"), (2, b"two")):
        loaded = load_context(llava, ids, store=store, level="lossless", extra=name)
        check_planes(loaded.result.kv, own_cache(llava, ids, pixel_values=image(seed)))
    assert load_context(llava, ids, store=store, extra=b"three").num_tokens == 0


def test_placeholders_without_a_name_or_an_image_are_refused(llava, store):
    ids, inputs = text(), {"pixel_values": image(1)}
    for act in (save_context, load_context):
        with pytest.raises(ValueError, match=r"token 120 stands for an image.*`extra`"):
            act(llava, ids, store=store)
    with pytest.raises(ValueError, match=r"expected `extra` with `inputs`"):
        save_context(llava, ids, store=store, inputs=inputs)
    with pytest.raises(ValueError, match=r"expected `inputs`.*pixel_values"):
        save_context(llava, ids, store=store, extra=b"one")
    assert list(store.list()) == []


def test_text_alone_needs_neither(llava, store):
    ids = text()[26:]
    save_context(llava, ids, store=store)
    loaded = load_context(llava, ids, store=store, level="lossless")
    check_planes(loaded.result.kv, own_cache(llava, ids))


def test_extra_keeps_texts_apart(tiny, tokens, store):
    model = tiny("llama")
    save_context(model, tokens, store=store, extra=b"one")
    assert load_context(model, tokens, store=store, extra=b"one").num_tokens == 99
    for other in (b"", b"two"):
        assert load_context(model, tokens, store=store, extra=other).num_tokens == 0


def test_a_lost_chunk_of_an_image_is_not_computed_without_it(llava, store):
    ids = text(before=50, after=150)
    inputs = {"pixel_values": image(1)}
    manifest = save_context(llava, ids, store=store, inputs=inputs, extra=b"one", chunk_tokens=64)
    for stored in manifest.chunks[1].objects:
        store.delete(stored.key)
    loaded = load_context(llava, ids, store=store, extra=b"one")
    assert loaded.num_tokens == 50  # the first chunk ends inside the image


def test_a_stored_image_is_built_upon(llava, store):
    ids, inputs = text(before=10, after=200), {"pixel_values": image(1)}
    save_context(llava, ids[:128], store=store, inputs=inputs, extra=b"one", chunk_tokens=64)
    save_context(llava, ids, store=store, inputs=inputs, extra=b"one", chunk_tokens=64)
    loaded = load_context(llava, ids, store=store, level="lossless", extra=b"one")
    own = own_cache(llava, ids, pixel_values=inputs["pixel_values"])
    check_planes(loaded.result.kv, own)


@pytest.mark.parametrize(
    ("num_tokens", "kept"), [(0, 0), (9, 9), (10, 10), (11, 10), (25, 10), (26, 26), (30, 30)]
)
def test_no_image_is_cut(llava, num_tokens, kept):
    ids = text().tolist()
    assert whole_media(llava, ids, num_tokens) == kept


@pytest.fixture
def gemma3():
    """Tokens of an image see each other, whichever comes first."""
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
    common = {"num_key_value_heads": 2, "head_dim": 16, "num_hidden_layers": 2}
    config = Gemma3Config(
        text_config=Gemma3TextConfig(
            **sizes, **common, vocab_size=128, sliding_window=32, initializer_range=0.2,
            pad_token_id=0, bos_token_id=1, eos_token_id=2,
        ),
        vision_config=SiglipVisionConfig(
            **sizes, num_hidden_layers=2, image_size=16, patch_size=4
        ),
        mm_tokens_per_image=IMAGE_TOKENS,
        image_token_id=IMAGE,
        boi_token_index=118,
        eoi_token_index=119,
    )  # fmt: skip
    torch.manual_seed(0)
    return Gemma3ForConditionalGeneration(config).eval()


def test_images_whose_tokens_see_each_other(gemma3, store):
    ids, pixels = text(before=10, after=100), image(1)
    inputs = {"pixel_values": pixels, "token_type_ids": (ids == IMAGE)[None].long()}
    assert IMAGE in placeholders(gemma3) and 118 not in placeholders(gemma3)
    save_context(gemma3, ids, store=store, inputs=inputs, extra=b"one")
    loaded = load_context(gemma3, ids, store=store, level="lossless", extra=b"one")
    assert loaded.num_tokens == len(ids) - 1
    check_planes(loaded.result.kv, own_cache(gemma3, ids, **inputs))
    mask = torch.ones_like(ids[None])
    expected = gemma3.generate(ids[None], attention_mask=mask, **inputs, **GREEDY)
    got = gemma3.generate(ids[None], past_key_values=loaded.cache, attention_mask=mask, **GREEDY)
    assert torch.equal(got, expected)


@pytest.fixture
def qwen2_vl():
    """Tokens behind an image are numbered by its size."""
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 2}
    rotation = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "rope_parameters": rotation,
            "bos_token_id": 1, "eos_token_id": 2,
        },
        vision_config=vision,
        image_token_id=IMAGE,
        video_token_id=121,
        vision_start_token_id=118,
        vision_end_token_id=119,
    )  # fmt: skip
    torch.manual_seed(0)
    return Qwen2VLForConditionalGeneration(config).eval()


def test_positions_by_the_size_of_an_image_are_refused(qwen2_vl, store):
    with pytest.raises(UnsupportedCache, match="positions behind an image"):
        save_context(qwen2_vl, text(), store=store, inputs={"pixel_values": 1}, extra=b"one")
    ids = text()[26:]
    save_context(qwen2_vl, ids, store=store)
    loaded = load_context(qwen2_vl, ids, store=store, level="lossless")
    check_planes(loaded.result.kv, own_cache(qwen2_vl, ids))


def test_what_an_image_left_in_a_model_does_not_count(qwen2_vl, store):
    """Qwen2-VL keeps by how much the last image moved the positions behind it."""
    ids = text()[26:]
    own = own_cache(qwen2_vl, ids)
    left = torch.tensor([[-12]])
    qwen2_vl.model.rope_deltas = left
    save_context(qwen2_vl, ids[:64], store=store, chunk_tokens=64)
    manifest = save_context(qwen2_vl, ids, store=store, chunk_tokens=64)
    check_planes(load_context(qwen2_vl, ids, store=store, level="lossless").result.kv, own)
    for stored in manifest.chunks[1].objects:
        store.delete(stored.key)
    loaded = load_context(qwen2_vl, ids, store=store, level="lossless")
    assert loaded.result.chunks[1].level == "text"
    check_planes(loaded.result.kv, own)
    assert qwen2_vl.model.rope_deltas is left
