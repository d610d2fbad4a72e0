"""The contexts of `slo.py`: of a small real and of a large model."""

from __future__ import annotations

import torch

from cachegen import refmodel
from cachegen.bitstream.chunk import encode
from cachegen.cli.models import load_model
from cachegen.codec.levels import LADDER, LOSSLESS
from cachegen.codec.profile import Profile, read_profile
from cachegen.engines.transformers.cache import capture
from cachegen.policy.controller import Option
from cachegen.policy.costs import Costs, DecodeCost, PrefillCost
from cachegen.simulation.geometries import LEVEL_ORDER, MEASURED_BITS, context_of, find_model
from cachegen.simulation.hardware import costs_of, find_gpu
from cachegen.simulation.scenario import Chunk, Context
from cachegen.simulation.varying import Machine

LEVELS = (*LADDER, LOSSLESS)
DEFAULT_LEVEL = "high"
CHUNK_TOKENS = 1024


def large_model() -> Machine:
    """Llama-3.1-8B with 16 K tokens on an A100; bits per value as the reference model's."""
    model = find_model("Llama-3.1-8B")
    bits = {level: MEASURED_BITS[level] for level in LEVELS}
    context = context_of(model, num_tokens=16384, bits=bits, default_level=DEFAULT_LEVEL)
    costs = costs_of(model, find_gpu("A100-80G"))
    return Machine(f"{model.name}, 16384 tokens", context, costs)


def reference_model(profile: Profile, *, num_tokens: int) -> Machine:
    """The shipped model's real chunks; seconds once measured on two cores, so as to repeat."""
    model, tokenizer = load_model(refmodel.weights_path())
    text = refmodel.load_text("eval-python")[: 8 * num_tokens]
    tokens = tokenizer(text, verbose=False).input_ids[:num_tokens]
    with torch.inference_mode():
        kv = capture(model, tokens)
    chunks = []
    for start in range(0, len(tokens), CHUNK_TOKENS):
        stop = min(start + CHUNK_TOKENS, len(tokens))
        part = kv.slice(start, stop)
        sizes = {
            level: len(encode(part, tokens=tokens[start:stop], profile=profile, level=level))
            for level in LEVELS
        }
        options = (Option(n, size, LEVEL_ORDER.index(n)) for n, size in sizes.items())
        chunks.append(Chunk(start, stop, tuple(options)))
    costs = Costs(
        PrefillCost(0.02, 3e-4, 5e-8), {level: DecodeCost(5e-4, 3e-6) for level in LEVELS}, 0.001
    )
    context = Context(tuple(chunks), LEVEL_ORDER.index(DEFAULT_LEVEL))
    return Machine(f"reference model, {len(tokens)} tokens", context, costs)


def shipped_profile() -> Profile:
    """The reference model's levels, with their measured quality."""
    return read_profile(refmodel.profile_path())
