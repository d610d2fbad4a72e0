"""What is put counts once, from before it is there until it is gone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from cachegen.errors import StoreFull
from cachegen.server.objects.accounts import Accounts
from cachegen.server.objects.index import Index


@pytest.fixture
def index() -> Iterator[Index]:
    index = Index(namespaces=frozenset({"t"}))
    yield index
    index.close()


def test_what_is_coming_counts_until_it_is_settled_or_given_up(index: Index) -> None:
    accounts = Accounts(index, segment_bytes=10)
    with accounts.coming("t/a", 80, 200, None) as settle:
        assert accounts.taken() == {"t": 100}
        settle(lambda: index.add("t/a", 80))
        assert accounts.taken() == {"t": 100}
    assert accounts.taken() == {"t": 100}
    with pytest.raises(ZeroDivisionError), accounts.coming("t/b", 80, 200, None):
        assert accounts.taken() == {"t": 200}
        assert accounts.left_bytes("t/c", quota_bytes=250) == 30
        assert accounts.left_bytes("t/c", quota_bytes=210) == 0
        raise ZeroDivisionError
    assert accounts.taken() == {"t": 100}


def test_an_object_that_is_being_settled_does_not_count_twice(index: Index) -> None:
    accounts = Accounts(index, segment_bytes=0)
    listed, goes_on = threading.Event(), threading.Event()

    def store() -> None:
        index.add("t/a", 9)
        listed.set()
        assert goes_on.wait(10)

    def put() -> None:
        with accounts.coming("t/a", 9, None, 2) as settle:
            settle(store)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(put)
        assert listed.wait(10)
        second = pool.submit(accounts.check_quota, "t/b", 9, 18, 2)
        goes_on.set()
        first.result()
        second.result()
    index.add("t/b", 9)
    with pytest.raises(StoreFull, match="quota of 2, got one more"):
        accounts.check_quota("t/c", 0, None, 2)
    with pytest.raises(StoreFull, match="at most 0 more bytes within the quota of 18, got 1"):
        accounts.check_quota("t/c", 1, 18, None)
