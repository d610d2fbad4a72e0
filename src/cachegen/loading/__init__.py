"""A stored context into memory: fetched, decoded or recomputed, as a controller decides.

Knows no engine: a model appears only as the callable that recomputes a token range.
"""
