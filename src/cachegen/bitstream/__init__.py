"""Bytes: chunks, manifests and the names of what is stored. The only owner of the format.

FORMAT.md is normative. Knows nothing of stores, networks and engines.
"""
