"""Key -> bytes, anywhere: memory, a directory, buckets, Redis, our server, any HTTP server.

Knows no codec, no chunk and no model. `open_store` turns a URL into a `Store`.
"""

from cachegen.store.protocol import Buffer, Store, read
from cachegen.store.shared import shared_store
from cachegen.store.url import open_store

__all__ = ["Buffer", "Store", "open_store", "read", "shared_store"]
