"""Simulates loads on a virtual clock, with the real controllers but no network or model.

Independent of stores and engines: chunk sizes come from a manifest or a model's geometry.
"""
