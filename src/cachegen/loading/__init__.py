"""Loads a stored context: fetches, decodes or recomputes each chunk, as a controller decides.

Independent of engines: a model is only a callable that recomputes a token range.
"""
