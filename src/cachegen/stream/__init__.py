"""Contexts into a store and out of it: what is cut, coded, named, found, fetched and joined.

Knows no engine: a model appears only as the callable that recomputes a token range.
"""

from cachegen.stream.loader import load
from cachegen.stream.result import LoadedChunk, LoadResult
from cachegen.stream.saver import save

__all__ = ["LoadResult", "LoadedChunk", "load", "save"]
