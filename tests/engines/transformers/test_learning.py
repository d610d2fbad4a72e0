"""Samples with gradients, and what the vocabulary tells."""

import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax

from cachegen.codec.calibration.sample import Position
from cachegen.codec.rope import rotations, turn
from cachegen.engines.transformers.cache import capture, to_cache
from cachegen.engines.transformers.learning import sample_pieces, samples, token_features
from cachegen.engines.transformers.rope import rope_map
from cachegen.kvcache import KVCache

KINDS = ["llama", "gemma3", "deepseek-v3", "gemma3n", "gpt2"]


@pytest.fixture(scope="module")
def texts():
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, 128, (n,), generator=generator) for n in (400, 90, 700)]


def first(stream):
    return next(iter(stream))


def likelihood(model, kv, following, labels):
    with torch.no_grad():
        logits = model(torch.tensor([following]), past_key_values=to_cache(kv, model)).logits[0]
    return float(log_softmax(logits.double(), -1).gather(1, labels).sum())


def drawn(model, kv, following, draws, seed):
    with torch.no_grad():
        logits = model(torch.tensor([following]), past_key_values=to_cache(kv, model)).logits[0]
    generator = torch.Generator().manual_seed(seed)
    odds = log_softmax(logits, -1).exp()
    return torch.multinomial(odds, draws, replacement=True, generator=generator)


def moved(kv, by, step):
    planes = [p + step * d for p, d in zip(kv.planes(), by, strict=True)]
    return KVCache(tuple(planes[0::2]), tuple(planes[1::2]), kv.num_tokens)


def of_turn(gradient, draws, index):
    """The gradients of the tokens whose labels were drawn in a turn; zeros for all others."""
    planes = [torch.zeros_like(plane) for plane in gradient.planes()]
    for plane, own in zip(planes, gradient.planes(), strict=True):
        plane[:, index::draws] = own[:, index::draws]
    return planes


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("name", KINDS)
def test_the_gradient_is_a_finite_difference(tiny, texts, name, draws):
    model, seed, step = tiny(name), 7, 3e-4
    sizes = {"num_tokens": 48, "count": 2, "continuation_tokens": 20}
    sample = first(samples(model, texts, **sizes, draws=draws, seed=seed))
    following = texts[0][48:68].tolist()
    labels = drawn(model, sample.kv, following, draws, seed)
    for index in range(draws):
        planes = of_turn(sample.gradient, draws, index)
        direction = [plane / plane.norm().clamp_min(1e-9) for plane in planes]
        own = labels[:, index : index + 1]
        above = likelihood(model, moved(sample.kv, direction, step), following, own)
        below = likelihood(model, moved(sample.kv, direction, -step), following, own)
        expected = sum(plane.norm() for plane in planes)
        assert (above - below) / (2 * step) == pytest.approx(float(expected), rel=0.02)


@pytest.mark.parametrize("draws", [0, -1])
def test_labels_are_drawn_at_least_once(tiny, texts, draws):
    with pytest.raises(ValueError, match="drawn at least once"):
        first(samples(tiny("llama"), texts, num_tokens=48, count=1, draws=draws))


def test_caches_are_rounded_to_what_is_asked_for(tiny, texts):
    model, sizes = tiny("llama"), {"num_tokens": 48, "count": 1, "continuation_tokens": 20}
    exact = first(samples(model, texts, **sizes)).kv
    found = first(samples(model, texts, **sizes, dtype=torch.bfloat16)).kv
    pairs = zip(found.planes(), exact.planes(), strict=True)
    assert all(one.equal(other.bfloat16()) for one, other in pairs)


def test_where_the_model_does_not_look_the_gradient_is_zero(tiny, texts):
    sample = first(samples(tiny("gemma3"), texts, num_tokens=48, count=2, continuation_tokens=20))
    windowed, full = sample.gradient.keys[0], sample.gradient.keys[1]
    assert windowed[:, :33].abs().max() == 0 < windowed[:, 33:].abs().max()
    assert (full.abs().amax(dim=(0, 2)) > 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_samples_are_caches_of_their_tokens(tiny, texts, dtype):
    model = tiny("llama", dtype=dtype)
    sample = first(
        samples(model, texts, num_tokens=80, count=3, continuation_tokens=10, prefix=(1,))
    )
    assert sample.tokens.dtype == np.int64
    assert sample.tokens.tolist() == [1, *texts[0][:79].tolist()]
    expected = capture(model, sample.tokens)
    assert all(
        torch.equal(a, b) for a, b in zip(sample.kv.planes(), expected.planes(), strict=True)
    )
    assert sample.kv.dtype == dtype and sample.gradient.dtype == torch.float32
    assert sample.gradient.geometry.planes == sample.kv.geometry.planes
    assert not any(
        plane.requires_grad for plane in (*sample.kv.planes(), *sample.gradient.planes())
    )
    assert sample.continuation_tokens == 10


def test_the_same_seed_gives_the_same_samples(tiny, texts):
    def gradients(seed):
        found = samples(
            tiny("llama"), texts, num_tokens=60, count=2, continuation_tokens=9, seed=seed
        )
        return [sample.gradient.keys[0] for sample in found]

    first_run, second_run, other = gradients(0), gradients(0), gradients(1)
    assert len(first_run) == 2
    assert all(torch.equal(a, b) for a, b in zip(first_run, second_run, strict=True))
    assert not torch.equal(first_run[0], other[0])


@pytest.mark.parametrize("done", (1, 3))
def test_samples_go_on_behind_those_that_are_done(tiny, texts, done):
    """Labels are drawn as if nothing had been left out."""
    options = {"num_tokens": 60, "count": 4, "continuation_tokens": 9}
    whole = list(samples(tiny("llama"), texts, **options))
    after = Position(done, whole[done - 1].state)
    rest = list(samples(tiny("llama"), texts, after=after, **options))
    assert len(rest) == 4 - done
    for expected, found in zip(whole[done:], rest, strict=True):
        assert found.state == expected.state
        assert np.array_equal(found.tokens, expected.tokens)
        pairs = zip(found.gradient.planes(), expected.gradient.planes(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


def test_pieces_tell_without_a_model_whether_texts_suffice(texts):
    pieces = sample_pieces(texts, num_tokens=60, count=2, continuation_tokens=9, prefix=(1,))
    assert [len(piece) for piece in pieces] == [68, 68]
    with pytest.raises(ValueError, match="expected text for 40 pieces of 69 tokens, got enough"):
        sample_pieces(texts, num_tokens=60, count=40, continuation_tokens=9)


def test_a_twin_spares_the_gradient_the_rounding(tiny, texts):
    options = {"num_tokens": 48, "count": 1, "continuation_tokens": 20, "draws": 1}
    model, twin = tiny("llama", dtype=torch.bfloat16), tiny("llama", dtype=torch.float32)
    rounded, found = (first(samples(model, texts, twin=t, **options)) for t in (None, twin))
    assert found.kv.dtype == torch.bfloat16
    step, following = 3e-4, texts[0][48:68].tolist()
    exact = moved(found.kv, [plane.float() for plane in found.kv.planes()], 0.0)
    labels = drawn(twin, exact, following, 1, 0)
    direction = [plane / plane.norm() for plane in found.gradient.planes()]
    above, below = (
        likelihood(twin, moved(exact, direction, s), following, labels) for s in (step, -step)
    )
    expected = float(sum(plane.norm() for plane in found.gradient.planes()))
    assert (above - below) / (2 * step) == pytest.approx(expected, rel=0.02)
    assert not torch.equal(found.gradient.keys[0], rounded.gradient.keys[0])


def test_without_a_continuation_there_is_no_gradient(tiny, texts):
    found = list(samples(tiny("llama"), texts, num_tokens=80, count=14, continuation_tokens=0))
    assert len(found) == 14
    assert all(sample.gradient is None for sample in found)


def test_weights_are_left_as_they_were(new_model, texts):
    model = new_model("llama")
    parameters = list(model.parameters())
    parameters[0].requires_grad_(False)
    with torch.no_grad():
        first(samples(model, texts, num_tokens=40, count=1, continuation_tokens=8))
    assert [p.requires_grad for p in parameters] == [False] + [True] * (len(parameters) - 1)
    assert all(p.grad is None for p in parameters)


def test_a_context_must_have_room_for_text(tiny, texts):
    with pytest.raises(ValueError, match="longer than 2"):
        first(samples(tiny("llama"), texts, num_tokens=2, count=1, prefix=(1, 2)))


def alone(model, prefix, token):
    """What one token's row of features is made of, from the cache of the prefix and the token."""
    embedding = model.get_input_embeddings().weight[token].detach()
    columns = [embedding / embedding.square().mean().sqrt()]
    turns = rotations(rope_map(model), len(prefix), len(prefix) + 1)
    for plane, by in zip(capture(model, (*prefix, token)).planes(), turns, strict=True):
        rows = plane[:, -1][None].clone()
        if by is not None:
            turn(rows, by, inverse=True)
        columns.append(rows.flatten())
    return torch.cat(columns).numpy()


@pytest.mark.parametrize("prefix", [(), (1,), (1, 5)], ids=len)
@pytest.mark.parametrize("name", KINDS)
def test_features_are_what_a_token_alone_gives(tiny, name, prefix):
    model = tiny(name)
    features = token_features(model, prefix=prefix, max_features=4096, batch_tokens=34)
    one, other = alone(model, prefix, 77), alone(model, prefix, 20)
    assert features.shape == (128, len(one)) and features.dtype == np.float32
    np.testing.assert_allclose(one * features[20], other * features[77], rtol=1e-3, atol=1e-4)
    rms = np.sqrt(np.square(features).mean(axis=0))
    np.testing.assert_allclose(rms[np.abs(one) > 1e-6], 1.0, rtol=1e-4)


def test_wide_features_are_projected(tiny):
    """Tokens stay as alike as they were; row 0 is that of padding, all zeros."""
    model = tiny("llama")
    whole = token_features(model, max_features=10_000)
    told = []
    narrow = token_features(model, max_features=250, batch_tokens=16, progress=told.append)
    assert [str(status) for status in told] == [f"features {n} of 8" for n in range(9)]
    assert narrow.shape == (128, 250) and whole.shape[1] > 250
    np.testing.assert_allclose(np.square(narrow).mean(axis=0), 1.0, rtol=1e-4)
    before, after = (np.corrcoef(rows[1:])[np.triu_indices(127, 1)] for rows in (whole, narrow))
    assert np.corrcoef(before, after)[0, 1] > 0.85


@pytest.mark.parametrize("frequent", [(), (120, 77, 120)], ids=["none", "some"])
def test_of_large_vocabularies_the_model_is_asked_for_some(tiny, frequent):
    """Those named, and those of low ids; what the others get is guessed from their embeddings."""
    model, told = tiny("llama"), []
    options = {"max_features": 4096, "batch_tokens": 10}
    whole = token_features(model, **options)
    few = token_features(model, frequent=frequent, most_tokens=90, progress=told.append, **options)
    assert told[-1].total == 9 and few.shape == whole.shape
    asked = np.union1d(frequent, np.arange(90 - len(set(frequent)))).astype(int)
    others = np.setdiff1d(np.arange(128), asked)
    scales = (few[asked] * whole[asked]).sum(axis=0) / np.square(whole[asked]).sum(axis=0)
    np.testing.assert_allclose(few[asked], whole[asked] * scales, rtol=1e-3, atol=1e-3)
    of_first_layer = model.config.hidden_size + 2 * capture(model, [0]).keys[0][:, 0].numel()
    linear = np.s_[others, :of_first_layer]
    guessed, true = few[linear], (whole * scales)[linear]
    assert np.square(guessed - true).mean() < 0.05 * np.square(true).mean()


def test_a_vocabulary_that_is_asked_for_as_a_whole_is_as_before(tiny):
    model = tiny("llama")
    found = [token_features(model, most_tokens=most) for most in (128, 10_000)]
    assert np.array_equal(*found)
