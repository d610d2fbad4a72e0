"""A store behind HTTP: tenants, quotas, eviction, metrics.

The server knows keys and bytes; it knows no chunk, no manifest and no model.
"""
