"""The servers that some examples talk to."""

from tests.store.conftest import redis_server, s3_server

__all__ = ["redis_server", "s3_server"]
