"""Stores of bytes under keys: memory, a folder, buckets, Redis, our server, any HTTP server.

Stores know no codec, no chunk and no model. `open_store` turns a URL into a `Store`.
"""

from cachegen.store.protocol import Buffer, Store, read
from cachegen.store.shared import shared_store
from cachegen.store.url import open_store

__all__ = ["Buffer", "Store", "open_store", "read", "shared_store"]
