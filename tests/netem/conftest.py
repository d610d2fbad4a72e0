"""Both kinds of link."""

from __future__ import annotations

import os

import pytest

from cachegen.errors import CacheGenError
from cachegen.netem import open_link


@pytest.fixture(scope="session")
def require_netns() -> None:
    """Skips where namespaces are not permitted; fails where that must not be."""
    try:
        with open_link(None, kind="netns"):
            pass
    except CacheGenError as error:
        if os.environ.get("CACHEGEN_REQUIRE_SERVERS") == "1" and os.geteuid() == 0:
            raise
        pytest.skip(f"no network namespaces: {error}")


@pytest.fixture(params=["netns", "proxy"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "netns":
        request.getfixturevalue("require_netns")
    return request.param
