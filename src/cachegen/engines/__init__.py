"""Foreign model runtimes: their caches in and out, who a model is, how good a coded cache is.

Each engine is imported on its own, since it needs its runtime: ``cachegen.engines.transformers``.
Knows nothing of how caches are coded or where bytes are kept.
"""
