"""The format: bytes of chunks and manifests, and the keys of stored objects.

FORMAT.md is normative. This package knows nothing of stores, networks and engines.
"""
