"""The errors that cachegen raises.

    CacheGenError
    |-- BitstreamError     bytes that are damaged, hostile or of an unsupported version
    |-- ProfileMismatch    bytes made for another model or with another profile
    |-- TokensMismatch     bytes made for other tokens
    |-- LoadCancelled      a load ended because its caller cancelled it
    |-- UnsupportedCache   a cache this library cannot represent (recurrent state, for one)
    `-- StoreError         a store failed
        |-- KeyNotFound    there is nothing under this key
        |-- StoreDenied    the store refuses the credentials, asks for some, or can only be read
        |-- StoreFull      the store has no room for the object
        `-- StoreTimeout   the store did not answer in time

Mistakes in shapes, dtypes and argument values are ``ValueError`` and ``TypeError``.
"""


class CacheGenError(Exception):
    """The root of all errors of this library."""


class BitstreamError(CacheGenError):
    """Bytes that cannot be decoded; names the field and, where known, its byte offset."""

    def __init__(self, message: str, *, field: str, offset: int | None = None) -> None:
        where = field if offset is None else f"{field} at byte {offset}"
        super().__init__(f"{where}: {message}")
        self.field = field
        self.offset = offset


class ProfileMismatch(CacheGenError):
    """Bytes that belong to another model or need another profile."""


class TokensMismatch(CacheGenError):
    """The chunk was coded for other tokens."""


class LoadCancelled(CacheGenError):
    """The caller cancelled the load."""


class UnsupportedCache(CacheGenError):
    """A cache whose state is more than keys and values of tokens."""


class StoreError(CacheGenError):
    """A store could not do what was asked."""


class KeyNotFound(StoreError):
    """There is nothing under this key."""


class StoreDenied(StoreError):
    """The store refuses the credentials, asks for some where there are none, or is read-only."""


class StoreFull(StoreError):
    """The store has no room for the object: a full disk, a quota, a memory limit."""


class StoreTimeout(StoreError):
    """The store did not answer in time."""
