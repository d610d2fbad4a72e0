from .bitstream.chunk import decode, encode
from .bitstream.manifest import Manifest
from .codec.calibration.calibrate import calibrate
from .codec.levels import EncodingLevel, Quality
from .codec.profile import Profile, read_profile
from .codec.rope import Rope, RopeMap
from .contexts.save import save
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
from .loading.load import load
from .loading.result import LoadResult
from .policy.controller import Controller, Decision
from .store import Store, open_store

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
