"""A connector that keeps what vLLM computed of prompts: run in the engine's process by tests.

    python -m tests.engines.vllm.recorder REQUESTS.json

Every request names a model's folder, token ids, settings of the engine and a file, which gets the
planes that `PagedCache` read and how many there are of each; the identity lies beside it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    SupportsHMA,
)

from cachegen.engines.vllm.identity.model import model_identity
from cachegen.engines.vllm.identity.request import request_identity
from cachegen.engines.vllm.layout.register import paged_cache
from cachegen.kvcache import KVCache

RECORDED: dict[str, Any] = {}


class Blocks(KVConnectorMetadata):
    """The block ids of the only request, once it has been scheduled."""

    def __init__(self, ids: Any = None, num_tokens: int = 0) -> None:
        self.ids, self.num_tokens = ids, num_tokens


class Recorder(KVConnectorBase_V1, SupportsHMA):
    """Reads the prompt's blocks behind the step that computed them, and writes them elsewhere."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self.groups, self.vllm_config = kv_cache_config, vllm_config
        RECORDED["identity"] = model_identity(vllm_config)
        RECORDED["groups"] = len(kv_cache_config.kv_cache_groups)

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        self.pages = paged_cache(
            kv_caches, kv_cache_config=self.groups, vllm_config=self.vllm_config
        )

    def on_new_request(self, request: Any) -> None:
        RECORDED["request"] = request_identity(request)

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> Any:
        return 0, False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        pass

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        for request in scheduler_output.scheduled_new_reqs:
            state = scheduler_output.kv_connector_block_state
            return Blocks(state.get_block_ids(request.req_id), len(request.prompt_token_ids))
        return Blocks()

    def request_finished_all_groups(self, request: Any, block_ids: Any) -> tuple[bool, None]:
        return False, None

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        pass

    def wait_for_layer_load(self, layer_name: str) -> None:
        pass

    def save_kv_layer(self, *args: Any, **kwargs: Any) -> None:
        pass

    def wait_for_save(self) -> None:
        step = self._get_connector_metadata()
        if step.ids is not None and "kv" not in RECORDED:
            RECORDED["kv"] = self.pages.read(step.ids, start=0, stop=step.num_tokens)
            RECORDED["written"] = _elsewhere(self.pages, step.ids, RECORDED["kv"])


def _elsewhere(pages: Any, ids: Any, kv: KVCache) -> bool:
    """Write what was read to blocks that nobody uses, and compare all of their bytes."""
    moved = tuple([block and block + 40 for block in group] for group in ids)
    pages.write(kv, moved)
    again = pages.read(moved, start=0, stop=kv.num_tokens)
    whole = kv.num_tokens // pages.specs[0].block_tokens
    same = all(map(torch.equal, again.planes(), kv.planes()))
    for layer, spec in zip(pages.layers, pages.specs, strict=True):
        pair = [layer.tensor[group[:whole]] for group in (ids[spec.group], moved[spec.group])]
        same = same and torch.equal(*pair)
    return same


def record(wanted: dict[str, Any]) -> None:
    """Run one request, and write down what came of it."""
    from vllm import LLM, SamplingParams
    from vllm.config import KVTransferConfig

    from tests.engines.vllm.recorder import RECORDED as found

    found.clear()
    engine = LLM(
        wanted["folder"],
        skip_tokenizer_init=True,
        enforce_eager=True,
        disable_log_stats=True,
        kv_transfer_config=KVTransferConfig(
            kv_connector="Recorder",
            kv_connector_module_path="tests.engines.vllm.recorder",
            kv_role="kv_both",
        ),
        **{"dtype": "float32", "max_model_len": 512, **wanted.get("settings", {})},
    )
    sampling = SamplingParams(temperature=0, max_tokens=1, detokenize=False)
    engine.generate({"prompt_token_ids": wanted["tokens"]}, sampling)
    kv, identity = found["kv"], found["identity"]
    planes = {f"{at:04}": plane.contiguous() for at, plane in enumerate(kv.planes())}
    key = identity.prefix_key(found["request"])
    described = {
        "fingerprint": key.fingerprint.hex(),
        "extra": key.extra.hex(),
        "windows": json.dumps(identity.windows),
        "written": str(found["written"]),
        "groups": str(found["groups"]),
    }
    save_file(planes, wanted["to"], described)
    engine.llm_engine.engine_core.shutdown()


def main() -> None:
    for wanted in json.loads(Path(sys.argv[1]).read_text()):
        record(wanted)


if __name__ == "__main__":
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    main()
