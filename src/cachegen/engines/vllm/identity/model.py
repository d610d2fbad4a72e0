"""What caches of an engine must share to be the same: model, settings, ranks, and the request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from cachegen.bitstream.identity import PrefixKey
from cachegen.codec.rope import RopeMap
from cachegen.engines.transformers.regime import Regime, switches
from cachegen.engines.vllm.identity.digests import digest_of
from cachegen.engines.vllm.identity.request import RequestIdentity
from cachegen.engines.vllm.identity.rotations import rotations_of
from cachegen.engines.vllm.identity.source import (
    Source,
    content_of,
    fingerprint_of,
    rope_kinds,
    source_of,
)
from cachegen.errors import UnsupportedCache

# Models and rotations whose keys and values were found equal, but for rounding, to those that
# transformers computes (tests/engines/vllm/test_both_engines.py). Contexts of others are the
# engine's own. Latents are apart: without scaling, 0.32 on a CPU turns their rotated part once for
# each 64 values of a row, nine times in all.
EQUAL_MODELS = frozenset({"gemma3_text", "llama", "mistral", "phi3", "qwen2", "qwen3"})
EQUAL_ROTATIONS = frozenset({"default", "linear", "llama3", "longrope", "yarn"})
EQUAL_LATENTS = frozenset({"deepseek_v2", "deepseek_v3"})
EQUAL_LATENT_ROTATIONS = frozenset({"yarn"})
# Their drafts come from the text, not from a model with layers of its own.
_DRAFTS_WITHOUT_LAYERS = frozenset({"ngram", "ngram_gpu", "suffix"})


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Of an engine, the same in its scheduler and its workers.

    Attributes:
        fingerprint: of the model, as the transformers engine computes it.
        settings: digest of what else of the engine changes keys and values; nothing where they are
            what transformers computes.
        regime: which frequencies the engine uses, whatever the length of a text.
        rope: rotations of all of the model's planes; None where they are not known.
        windows: of all layers, as in `cachegen.engines.transformers`.
        tp_size, pp_size: over how many ranks heads, and layers, are spread.
    """

    fingerprint: bytes
    settings: bytes
    regime: Regime
    rope: RopeMap | None
    windows: tuple[int, ...]
    tp_size: int
    pp_size: int

    def prefix_key(
        self, request: RequestIdentity, *, tp_rank: int = 0, pp_rank: int = 0
    ) -> PrefixKey:
        """What names a request's contexts on one rank."""
        parts: dict[str, Any] = {}
        if self.settings:
            parts["engine"] = self.settings.hex()
        if request.extra:
            parts["request"] = request.extra.hex()
        if self.tp_size > 1:
            parts["heads"] = [tp_rank, self.tp_size]
        if self.pp_size > 1:
            parts["layers"] = [pp_rank, self.pp_size]
        extra = self.regime.extra(digest_of(parts))
        return PrefixKey(self.fingerprint, request.salt, extra)

    def rope_of(self, layers: Sequence[int]) -> RopeMap:
        """The rotations of some layers' planes, by the layers' places in the model."""
        if self.rope is None:
            return RopeMap.none(2 * len(layers))
        return self.rope.of_planes([2 * layer + half for layer in layers for half in (0, 1)])


def model_identity(vllm_config: Any) -> ModelIdentity:
    """Of an engine's configuration, ``VllmConfig``.

    The first time that a model is seen, its weights are read, at 1 to 3 GB/s.

    Raises:
        UnsupportedCache: keys and values of tokens are not all that the engine needs, or nothing
            says which they are: random weights, drafts of a second model, an encoder.
    """
    _refuse(vllm_config)
    source, parallel = source_of(vllm_config), vllm_config.parallel_config
    known = rotations_of(source.config, trusts_code=source.trusts_code)
    return ModelIdentity(
        fingerprint=fingerprint_of(source),
        settings=digest_of(dict(_settings(vllm_config, source))),
        regime=_regime(vllm_config, source.config),
        rope=known.rope if known else None,
        windows=known.windows if known else (),
        tp_size=parallel.tensor_parallel_size,
        pp_size=parallel.pipeline_parallel_size,
    )


def ranks(vllm_config: Any) -> tuple[int, int]:
    """Of a worker: its place among those that share layers, and that of its layers."""
    parallel = vllm_config.parallel_config
    size = parallel.tensor_parallel_size
    return parallel.rank % size, parallel.rank // size % parallel.pipeline_parallel_size


def _refuse(vllm_config: Any) -> None:
    model, parallel = vllm_config.model_config, vllm_config.parallel_config
    if vllm_config.load_config.load_format == "dummy":
        raise UnsupportedCache("weights are random (--load-format dummy): nothing to be named by")
    if model.runner_type != "generate" or model.is_encoder_decoder:
        raise UnsupportedCache(
            f"expected a decoder-only model that generates, got runner {model.runner_type!r} of "
            f"{model.architecture}"
        )
    context = (parallel.prefill_context_parallel_size, parallel.decode_context_parallel_size)
    if max(context) > 1:
        raise UnsupportedCache(
            "tokens are spread over ranks (context parallelism): expected whole tokens on each"
        )
    drafts = vllm_config.speculative_config
    if drafts is not None and drafts.method not in _DRAFTS_WITHOUT_LAYERS:
        raise UnsupportedCache(
            f"speculative decoding by {drafts.method!r} keeps layers of another model beside this "
            f"one's: expected one of {sorted(_DRAFTS_WITHOUT_LAYERS)}, or none"
        )


def _settings(vllm_config: Any, source: Source) -> Iterator[tuple[str, Any]]:
    """Whatever makes keys and values other ones than transformers computes, by name."""
    model, cache, load = (
        vllm_config.model_config,
        vllm_config.cache_config,
        vllm_config.load_config,
    )
    if not source.is_plain or not _is_tried(source.config):
        yield "engine", "vllm"
    if load.load_format not in ("auto", "hf", "safetensors", "pt"):
        yield "format", str(load.load_format)
    cache_dtype = str(cache.cache_dtype)
    if cache_dtype not in ("auto", str(model.dtype).removeprefix("torch.")):
        yield "cache dtype", [cache_dtype, sorted(getattr(cache, "kv_cache_dtype_skip_layers", ()))]
    if cache_dtype.startswith("fp8"):
        # Scales come with the weights; transformers' fingerprint leaves them out.
        yield "scales", content_of(source).hex()
    if model.quantization:
        yield "quantization", [str(model.quantization), str(_given(model, "quantization_config"))]
    text = source.config.get_text_config(decoder=True)
    if _given(model, "disable_sliding_window") and _given(text, "sliding_window"):
        yield "sliding windows", "disabled"
    if overrides := _given(model, "model_class_overrides"):
        yield "classes", str(overrides)
    if _given(text, "kv_lora_rank") and not model.use_mla:
        yield "latent", "expanded"
    if any("dynamic" in kind for kind, _ in switches(source.config)):
        yield "frequencies", "vllm's, which do not depend on the length"


def _given(config: Any, name: str) -> Any:
    """A setting that not every version has."""
    return getattr(config, name, None) or None


def _is_tried(config: PreTrainedConfig) -> bool:
    kind, turns = config.get_text_config(decoder=True).model_type, set(rope_kinds(config))
    if kind in EQUAL_LATENTS:
        return turns <= EQUAL_LATENT_ROTATIONS
    return kind in EQUAL_MODELS and turns <= EQUAL_ROTATIONS


def _regime(vllm_config: Any, config: PreTrainedConfig) -> Regime:
    """vLLM takes the long frequencies for all texts where it allows texts that need them."""
    longest = vllm_config.model_config.max_model_len
    lengths = {length for kind, length in switches(config) if kind == "longrope"}
    return Regime(tuple(sorted(length for length in lengths if longest > length)))
