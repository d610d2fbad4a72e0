"""Cache sizes and prefill work of well-known models."""

from __future__ import annotations

from dataclasses import dataclass

from cachegen.codec.levels import LADDER, LOSSLESS, PACKED, RAW
from cachegen.policy.controller import Option
from cachegen.simulation.scenario import Chunk, Context

RAW_BITS = 16.0  # bf16
LEVEL_ORDER = (*LADDER, PACKED, LOSSLESS, RAW)
DEFAULT_LEVEL = "high"

# Bits per value, measured with the shipped reference model on its text `eval-python` at 1,536
# tokens a chunk. Models whose text says less of their cache compress less.
MEASURED_BITS = {
    "lowest": 0.023,
    "low": 0.027,
    "medium": 0.083,
    "high": 0.304,
    "highest": 0.989,
    PACKED: 8.50,
    LOSSLESS: 10.59,
    RAW: RAW_BITS,
}


@dataclass(frozen=True, slots=True)
class ModelGeometry:
    """A model's cache and work, from its published configuration.

    Attributes:
        name: its common name.
        num_layers: layers that hold keys and values.
        values_per_layer: cached values of a token in one layer.
        attended_width: dimensions of a key plus those of a value, summed over all query heads.
        num_parameters: number of weights.
        num_active_parameters: number of weights that a token passes through.
    """

    name: str
    num_layers: int
    values_per_layer: int
    attended_width: int
    num_parameters: float
    num_active_parameters: float

    @property
    def values_per_token(self) -> int:
        """Cached values of a token in all layers."""
        return self.num_layers * self.values_per_layer

    @property
    def bytes_per_token(self) -> int:
        """Bytes of a token's cache in bf16."""
        return 2 * self.values_per_token


def _grouped(
    name: str, layers: int, query_heads: int, kv_heads: int, head_dim: int, parameters: float
) -> ModelGeometry:
    return ModelGeometry(
        name,
        num_layers=layers,
        values_per_layer=2 * kv_heads * head_dim,
        attended_width=2 * query_heads * head_dim,
        num_parameters=parameters,
        num_active_parameters=parameters,
    )


MODELS = (
    _grouped("Mistral-7B", 32, 32, 8, 128, 7.25e9),
    _grouped("Llama-3.1-8B", 32, 32, 8, 128, 8.03e9),
    _grouped("Llama-3.1-70B", 80, 64, 8, 128, 70.6e9),
    _grouped("Qwen3-32B", 64, 64, 8, 128, 32.8e9),
    # A latent of 512 values and a rotated key of 64; 128 heads see keys of 192, values of 128.
    ModelGeometry("DeepSeek-V3", 61, 512 + 64, 128 * (192 + 128), 671e9, 37e9),
)


def find_model(name: str) -> ModelGeometry:
    """The model of this name, in any case.

    Raises:
        ValueError: there is none; the message lists the known ones.
    """
    for model in MODELS:
        if model.name.lower() == name.lower():
            return model
    names = ", ".join(model.name for model in MODELS)
    raise ValueError(f"expected one of the models {names}; got {name!r}")


def context_of(
    model: ModelGeometry,
    *,
    num_tokens: int,
    chunk_tokens: int = 1536,
    bits: dict[str, float] | None = None,
    default_level: str = DEFAULT_LEVEL,
) -> Context:
    """A context of this model with every chunk stored at every level.

    Args:
        model: the model.
        num_tokens: length of the context.
        chunk_tokens: length of a chunk, by default that of `save`; the last one may be shorter.
        bits: bits per value of each level; `MEASURED_BITS` if None.
        default_level: the level without a deadline.

    Raises:
        ValueError: a length is not positive, or a level is unknown.
    """
    if num_tokens <= 0 or chunk_tokens <= 0:
        raise ValueError(f"expected lengths above 0, got {num_tokens} and {chunk_tokens} tokens")
    bits = MEASURED_BITS if bits is None else bits
    ranks = {name: LEVEL_ORDER.index(_known(name)) for name in (*bits, default_level)}
    levels = sorted(bits, key=ranks.__getitem__)
    chunks = []
    for start in range(0, num_tokens, chunk_tokens):
        stop = min(start + chunk_tokens, num_tokens)
        values = (stop - start) * model.values_per_token
        options = (Option(n, max(round(values * bits[n] / 8), 1), ranks[n]) for n in levels)
        chunks.append(Chunk(start, stop, tuple(options)))
    return Context(tuple(chunks), ranks[default_level])


def _known(level: str) -> str:
    if level not in LEVEL_ORDER:
        raise ValueError(f"expected one of the levels {', '.join(LEVEL_ORDER)}; got {level!r}")
    return level
