from .loader import load
from .result import LoadedChunk, LoadResult
from .saver import save

__all__ = ["LoadResult", "LoadedChunk", "load", "save"]
