"""Stored contexts: cutting, naming, encoding and publishing a cache, and finding it again."""
