from .bitstream.chunk import decode, encode
from .bitstream.manifest import Manifest
from .codec.calibration.calibrate import calibrate
from .codec.levels import EncodingLevel, Quality
from .codec.profile import Profile, read_profile
from .codec.rope import Rope, RopeMap
from .contexts.outcome import LoadedChunk
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
from .loading.load import Reader, load
from .loading.model import Recompute
from .loading.result import LoadResult
from .policy.algorithm1 import Algorithm1
from .policy.controller import (
    ChunkState,
    Controller,
    Decision,
    LoadState,
    Option,
    TimedDecision,
)
from .policy.costs import Costs
from .policy.fixed import Fixed
from .policy.min_ttft import MinTTFT
from .store import Store, open_store

__version__: str

__all__ = [
    "Algorithm1",
    "BitstreamError",
    "CacheGenError",
    "ChunkState",
    "Controller",
    "Costs",
    "Decision",
    "EncodingLevel",
    "Fixed",
    "KVCache",
    "KeyNotFound",
    "LoadCancelled",
    "LoadResult",
    "LoadState",
    "LoadedChunk",
    "Manifest",
    "MinTTFT",
    "Option",
    "Profile",
    "ProfileMismatch",
    "Quality",
    "Reader",
    "Recompute",
    "Rope",
    "RopeMap",
    "Store",
    "StoreDenied",
    "StoreError",
    "StoreFull",
    "StoreTimeout",
    "TimedDecision",
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
