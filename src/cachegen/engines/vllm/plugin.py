"""Makes the connector's name known to vLLM, so that users need no module path.

vLLM calls `register` in every process (entry points of the group ``vllm.general_plugins``).
"""

from __future__ import annotations

NAME, MODULE = "CacheGenConnector", "cachegen.engines.vllm"


def register() -> None:
    """Register the connector; again does nothing."""
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory

    if NAME not in KVConnectorFactory._registry:
        KVConnectorFactory.register_connector(NAME, MODULE, NAME)
