"""A store behind HTTP: tenants, quotas, eviction, metrics.

Knows keys and bytes; no chunk, no manifest and no model.
"""
