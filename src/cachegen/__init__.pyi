from .bitstream.chunk import decode, encode
from .bitstream.manifest import Manifest
from .codec.calibrate import calibrate
from .codec.levels import EncodingLevel, Quality
from .codec.profile import Profile, read_profile
from .codec.rope import Rope, RopeMap
from .errors import (
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
from .kvcache import KVCache
from .store import Store, open_store
from .stream.controller import Controller, Decision
from .stream.loader import load
from .stream.result import LoadResult
from .stream.saver import save

__all__ = [
    "BitstreamError",
    "CacheGenError",
    "Controller",
    "Decision",
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
