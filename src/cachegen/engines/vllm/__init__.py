"""A KV connector for vLLM: saves prompts as they are computed, loads those that are stored.

    vllm serve MODEL --kv-transfer-config '{"kv_connector": "CacheGenConnector",
      "kv_connector_module_path": "cachegen.engines.vllm", "kv_role": "kv_both",
      "kv_load_failure_policy": "recompute",
      "kv_connector_extra_config": {"store": "cachegen://cache:8080"}}'

`config.py` has the keys of the last object. `CacheGenConnector` is imported when it is first used,
since it needs vLLM; nothing else here does.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
