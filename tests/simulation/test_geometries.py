import pytest

from cachegen.simulation.geometries import (
    DEFAULT_LEVEL,
    LEVEL_ORDER,
    MEASURED_BITS,
    MODELS,
    context_of,
    find_model,
)
from cachegen.simulation.hardware import GPUS, costs_of, find_gpu, prefill_cost


@pytest.mark.parametrize(
    ("name", "bytes_per_token"),
    (
        ("Mistral-7B", 131_072),
        ("Llama-3.1-8B", 131_072),
        ("Llama-3.1-70B", 327_680),
        ("Qwen3-32B", 262_144),
        ("DeepSeek-V3", 70_272),
    ),
)
def test_bytes_of_a_token_in_bf16(name, bytes_per_token):
    assert find_model(name.lower()).bytes_per_token == bytes_per_token


def test_a_context_has_all_levels_from_smallest_to_best():
    context = context_of(find_model("Mistral-7B"), num_tokens=4_000, chunk_tokens=1_536)
    assert [(c.start, c.stop) for c in context.chunks] == [(0, 1536), (1536, 3072), (3072, 4000)]
    first = context.chunks[0].options
    assert [option.level for option in first] == list(LEVEL_ORDER) == list(MEASURED_BITS)
    assert [option.rank for option in first] == list(range(len(LEVEL_ORDER)))
    assert first[-1].size_bytes == 1_536 * 131_072
    assert LEVEL_ORDER[context.default_rank] == DEFAULT_LEVEL
    assert context.num_tokens == 4_000


def test_bits_of_levels_are_the_callers():
    context = context_of(find_model("DeepSeek-V3"), num_tokens=64, bits={"packed": 8.0, "low": 1.0})
    assert [(o.level, o.size_bytes) for o in context.chunks[0].options] == [
        ("low", 64 * 70_272 // 16),
        ("packed", 64 * 70_272 // 2),
    ]


def test_prefill_is_operations_over_rate():
    model, gpu = find_model("Llama-3.1-8B"), find_gpu("h100")
    cost = prefill_cost(model, gpu, utilisation=0.5)
    tokens = 16_384
    operations = 2 * 8.03e9 * tokens + 4 * 32 * 32 * 128 * tokens**2 / 2
    assert cost.seconds(tokens) - cost.a_s == pytest.approx(operations / (0.5 * 989e12))
    four = prefill_cost(model, gpu, num_gpus=4, utilisation=0.5)
    assert four.seconds(tokens) == pytest.approx(cost.seconds(tokens) / 4)


def test_larger_models_and_slower_gpus_take_longer():
    seconds = {
        (model.name, gpu.name): prefill_cost(model, gpu).seconds(8_192)
        for model in MODELS
        for gpu in GPUS
    }
    assert seconds["Llama-3.1-70B", "H100"] > 5 * seconds["Llama-3.1-8B", "H100"]
    assert seconds["Mistral-7B", "RTX-4090"] > seconds["Mistral-7B", "A100-80G"]


def test_raw_is_not_decoded():
    costs = costs_of(find_model("Mistral-7B"), find_gpu("RTX 4090"), decode_gb_s=131.072)
    assert costs.decode_s("raw", 1_000) == 0.0
    assert costs.decode_s("high", 1_000) == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("call", "message"),
    (
        (lambda: find_model("GPT-9"), "Mistral-7B"),
        (lambda: find_gpu("abacus"), "A100-80G"),
        (lambda: context_of(MODELS[0], num_tokens=0), "above 0"),
        (lambda: context_of(MODELS[0], num_tokens=9, bits={"best": 1.0}), "lowest.*'best'"),
        (lambda: prefill_cost(MODELS[0], GPUS[0], utilisation=1.5), "utilisation"),
        (lambda: costs_of(MODELS[0], GPUS[0], decode_gb_s=0.0), "decoding speed"),
    ),
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
