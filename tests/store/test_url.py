from __future__ import annotations

from pathlib import Path

import pytest

from cachegen.errors import StoreError
from cachegen.store import open_store, read


def test_memory_stores_are_apart() -> None:
    one, other = open_store("memory:"), open_store("memory:")
    one.put("k", b"1")
    assert other.lookup(["k"]) == [None]


@pytest.mark.parametrize("form", [lambda p: p, str, lambda p: p.as_uri(), lambda p: f"{p}/"])
def test_a_directory_has_many_names(tmp_path: Path, form) -> None:
    directory = tmp_path / "not yet" / "there"
    store = open_store(form(directory))
    store.put("a/b", b"1")
    assert (directory / "a" / "b").read_bytes() == b"1"
    assert read(open_store(directory), "a/b") == b"1"


def test_a_relative_path_stays_where_it_was_opened(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("here")
    monkeypatch.chdir("/")
    store.put("k", b"1")
    assert (tmp_path / "here" / "k").is_file()


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="file"):
        open_store(tmp_path / "file")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("", "empty"),
        ("memory:name", "begins with 'memory:'"),
        ("memory://name", "expected a path or one of memory:"),
        ("s3:SECRET/prefix", "write './s3:...'"),
        ("file:/folder", "begins with 'file:'"),
        ("cachegen:host:80", "begins with 'cachegen:'"),
        ("file://~/folder", "file:///absolute/path"),
        ("redos://host/1", "memory:, file://, s3://, .*, cachegens://, redis://, rediss://"),
        ("cachegen://host", "host:port without a path"),
        ("cachegen://:SECRET@host:80/path", "host:port without a path"),
        ("redis://", "bucket or host"),
        ("file://host/directory", "file:///absolute/path"),
        ("file://", "file:///absolute/path"),
        ("s3:///prefix", "bucket or host"),
        ("https://", "bucket or host"),
        ("https://host/x?sig=SECRET", "without query"),
        ("s3://key:SECRET@bucket/x", "in the environment"),
        ("ftp://me:SECRET@host/x", "expected a path or one of"),
    ],
)
def test_a_url_that_names_no_store(url: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as failure:
        open_store(url)
    assert "SECRET" not in str(failure.value)


@pytest.mark.parametrize("url", ["s3://bucket/some/prefix", "gs://bucket/some/prefix"])
def test_buckets_open_without_a_request(url: str) -> None:
    assert open_store(url).url == url


def test_an_account_that_is_not_configured(monkeypatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(StoreError, match=r"az://container: .*[Aa]ccount"):
        open_store("az://container")
