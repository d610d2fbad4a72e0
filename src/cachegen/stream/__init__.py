"""Contexts into a store and out of it: what is cut, coded, named, found, fetched and joined.

Knows no engine: a model appears only as the callable that recomputes a token range.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
