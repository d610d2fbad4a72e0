"""KV caches of long contexts: encoded small, stored anywhere, loaded fast.

    encode, decode      a KVCache to the bytes of one chunk, and back
    save, load          a context, in chunks, to a store and back
    open_store          a folder or URL as a Store
    calibrate           a Profile for a model, levels placed by measured quality

For Hugging Face models: ``cachegen.engines.transformers.save_context`` and ``load_context``.
"""

from cachegen.bitstream.chunk import decode, encode
from cachegen.bitstream.manifest import Manifest
from cachegen.codec.calibrate import calibrate
from cachegen.codec.levels import EncodingLevel, Quality
from cachegen.codec.profile import Profile, read_profile
from cachegen.codec.rope import Rope, RopeMap
from cachegen.errors import (
    BitstreamError,
    CacheGenError,
    KeyNotFound,
    LoadCancelled,
    ProfileMismatch,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreTimeout,
    TokensMismatch,
    UnsupportedCache,
)
from cachegen.kvcache import KVCache
from cachegen.store import Store, open_store
from cachegen.stream.loader import load
from cachegen.stream.result import LoadResult
from cachegen.stream.saver import save

__all__ = [
    "BitstreamError",
    "CacheGenError",
    "EncodingLevel",
    "KVCache",
    "KeyNotFound",
    "LoadCancelled",
    "LoadResult",
    "Manifest",
    "Profile",
    "ProfileMismatch",
    "Quality",
    "Rope",
    "RopeMap",
    "Store",
    "StoreDenied",
    "StoreError",
    "StoreFull",
    "StoreTimeout",
    "TokensMismatch",
    "UnsupportedCache",
    "calibrate",
    "decode",
    "encode",
    "load",
    "open_store",
    "read_profile",
    "save",
]
