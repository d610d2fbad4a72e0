"""A server's tenants."""

from tests.server.conftest import two_tenants

__all__ = ["two_tenants"]
