"""Both engines name equal caches equally, and whatever changes KV changes the name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, Phi3Config, PreTrainedConfig

from cachegen.bitstream.identity import PrefixKey
from cachegen.contexts.lookup import find_prefix
from cachegen.engines.transformers import fingerprint, rope_map, save_context
from cachegen.engines.transformers.regime import regime_of
from cachegen.errors import UnsupportedCache
from cachegen.loading.measurements import FOLDER_VARIABLE
from cachegen.refmodel import weights_path
from cachegen.store import open_store

pytest.importorskip("vllm", reason="vLLM is not here: make vllm-env")

from cachegen.engines.vllm.identity.model import ModelIdentity, model_identity, ranks
from cachegen.engines.vllm.identity.request import RequestIdentity
from tests.engines.vllm.identity.configs import vllm_config

NOBODY = RequestIdentity()
TOKENS = [3 * token % 2000 for token in range(200)]


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelIdentity:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        return model_identity(vllm_config())


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(weights_path(), dtype=torch.bfloat16).eval()


def test_contexts_of_the_transformers_engine_are_found(
    base: ModelIdentity, model: Any, tmp_path: Path
) -> None:
    store = open_store(f"file://{tmp_path}/store", create=True)
    saved = save_context(model, TOKENS, store=store, levels=["lossless"], chunk_tokens=128)
    found = find_prefix(TOKENS, store=store, prefix_keys=[base.prefix_key(NOBODY)])
    assert found.manifest == saved
    of_tenant = base.prefix_key(RequestIdentity(salt=b"tenant"))
    assert find_prefix(TOKENS, store=store, prefix_keys=[of_tenant]).manifest is None


def test_is_that_of_the_transformers_engine(base: ModelIdentity, model: Any) -> None:
    assert base.prefix_key(NOBODY) == PrefixKey(fingerprint(model))
    assert base.rope == rope_map(model)
    assert base.rope_of([1]) == rope_map(model).of_planes([2, 3])


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_model_len": 1024},
        {"block_size": 32},
        {"enable_prefix_caching": False},
        {"max_num_batched_tokens": 1024},
        {"seed": 5},
        {"dtype": "bfloat16"},
        {"kv_cache_dtype": "bfloat16"},
        {"served_model_name": "other"},
        {"disable_sliding_window": True},  # there are none
        {
            "speculative_config": {
                "method": "ngram",
                "num_speculative_tokens": 2,
                "prompt_lookup_max": 3,
            }
        },
    ],
    ids=str,
)
def test_what_changes_no_kv_changes_no_name(base: ModelIdentity, arguments: dict[str, Any]) -> None:
    assert model_identity(vllm_config(**arguments)).prefix_key(NOBODY) == base.prefix_key(NOBODY)


def wider(config: PreTrainedConfig) -> PreTrainedConfig:
    config.rms_norm_eps = 1e-5
    return config


CHANGES: dict[str, dict[str, Any]] = {
    "dtype": {"dtype": "float32"},
    "8-bit cache": {"kv_cache_dtype": "fp8"},
    "another 8-bit cache": {"kv_cache_dtype": "fp8_e5m2"},
    "another cache": {"kv_cache_dtype": "float16"},
    "base of the rotation": {
        "hf_overrides": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    },
    "kind of the rotation": {
        "hf_overrides": {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e6,
                "factor": 2.0,
                "original_max_position_embeddings": 4096,
            }
        }
    },
    "override": {"hf_overrides": {"rms_norm_eps": 1e-5, "attention_dropout": 0.0}},
    "function that overrides": {"hf_overrides": wider},
    "quantised weights": {"quantization": "fp8"},
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_kv_changes_the_name(base: ModelIdentity, change: str) -> None:
    other = model_identity(vllm_config(**CHANGES[change]))
    assert other.prefix_key(NOBODY) != base.prefix_key(NOBODY)


def test_all_changes_are_told_apart() -> None:
    keys = [
        model_identity(vllm_config(**arguments)).prefix_key(NOBODY)
        for name, arguments in CHANGES.items()
        if name != "function that overrides"  # to what another one overrides
    ]
    assert len(set(keys)) == len(keys)


def test_profiles_stay_the_models(base: ModelIdentity) -> None:
    for name in ("8-bit cache", "quantised weights"):
        assert model_identity(vllm_config(**CHANGES[name])).fingerprint == base.fingerprint


def test_other_weights_are_another_model(base: ModelIdentity, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(weights_path(), tmp_path / "model"))
    same = model_identity(vllm_config(folder))
    assert same.prefix_key(NOBODY) == base.prefix_key(NOBODY)
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1000, 2)
        file.write(b"\x3c")
    assert model_identity(vllm_config(folder)).fingerprint != base.fingerprint


@pytest.mark.parametrize("spread", ["tensor_parallel_size", "pipeline_parallel_size"])
def test_ranks_have_contexts_of_their_own(base: ModelIdentity, spread: str) -> None:
    config = vllm_config(**{spread: 2})
    identity = model_identity(config)
    of_rank: Callable[[int], PrefixKey] = lambda rank: identity.prefix_key(  # noqa: E731
        NOBODY, **{"tp_rank" if spread.startswith("tensor") else "pp_rank": rank}
    )
    assert len({of_rank(0), of_rank(1), base.prefix_key(NOBODY)}) == 3
    assert ranks(config) == (0, 0)
    config.parallel_config.rank = 1
    assert ranks(config) == ((1, 0) if spread.startswith("tensor") else (0, 1))


def test_parts_of_a_request_are_told_apart(base: ModelIdentity) -> None:
    keys = {
        base.prefix_key(RequestIdentity(salt, extra))
        for salt in (b"", b"a")
        for extra in (b"", b"a", b"b")
    }
    assert len(keys) == 6


def test_a_revision_is_found_by_its_name(base: ModelIdentity, tmp_path: Path) -> None:
    """Two revisions of a repository, as the hub's client lays them out on this machine."""
    root = tmp_path / "hub" / "models--somebody--small"
    for revision in ("1" * 40, "2" * 40):
        shutil.copytree(weights_path(), root / "snapshots" / revision)
    with (root / "snapshots" / ("2" * 40) / "model.safetensors").open("r+b") as file:
        file.seek(-1000, 2)
        file.write(b"\x3c")
    config = vllm_config(download_dir=str(tmp_path / "hub"))
    config.model_config.model = "somebody/small"
    found = []
    for revision in ("1" * 40, "2" * 40):
        config.model_config.revision = revision
        found.append(model_identity(config).fingerprint)
    assert found[0] == base.fingerprint != found[1]
    config.model_config.revision = "3" * 40
    with pytest.raises(UnsupportedCache, match="files of somebody/small"):
        model_identity(config)


@pytest.fixture(scope="module")
def long_rope(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with other frequencies from 128 tokens on."""
    folder = tmp_path_factory.mktemp("models") / "phi3"
    config = Phi3Config(
        vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
        original_max_position_embeddings=128, pad_token_id=0,
        rope_parameters={
            "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 128,
            "short_factor": [1.0] * 8, "long_factor": [4.0] * 8,
        },
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


def test_frequencies_are_those_that_the_engine_uses_for_all_texts(long_rope: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(long_rope, dtype=torch.bfloat16)
    for longest, as_of in ((128, 128), (256, 129)):
        identity = model_identity(vllm_config(long_rope, max_model_len=longest))
        expected = PrefixKey(fingerprint(model), extra=regime_of(model, as_of).extra(b""))
        assert identity.prefix_key(NOBODY) == expected


def test_models_that_were_not_found_equal_have_contexts_of_their_own(tmp_path: Path) -> None:
    for kind, changes in (
        ("smollm3", {}),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}),
        ("deepseek_v3", {"topk_method": "noaux_tc"}),
    ):
        sizes = {
            "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 512,
            "pad_token_id": 0,
        }  # fmt: skip
        config = CONFIG_MAPPING[kind](**{**sizes, **changes})
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
        model.save_pretrained(tmp_path / kind)
        identity = model_identity(vllm_config(tmp_path / kind))
        assert identity.fingerprint == fingerprint(model)
        assert identity.prefix_key(NOBODY).extra


def test_what_cannot_be_named_is_refused() -> None:
    with pytest.raises(UnsupportedCache, match="random"):
        model_identity(vllm_config(load_format="dummy"))
    config = vllm_config()
    config.parallel_config.decode_context_parallel_size = 2
    with pytest.raises(UnsupportedCache, match="spread over ranks"):
        model_identity(config)
    drafting = vllm_config(
        speculative_config={
            "model": str(weights_path()), "num_speculative_tokens": 2, "method": "draft_model"
        }
    )  # fmt: skip
    with pytest.raises(UnsupportedCache, match="another model"):
        model_identity(drafting)
