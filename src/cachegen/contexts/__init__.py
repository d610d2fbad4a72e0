"""Stored contexts: how a cache is cut, named, coded and published, and how it is found again."""
