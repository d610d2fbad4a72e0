"""Loads on a virtual clock: the controllers of `stream`, driven without network, model or wait.

Knows no store and no engine: chunk sizes come from a manifest or from a model's geometry.
"""
