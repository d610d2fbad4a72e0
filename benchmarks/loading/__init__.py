"""Modules of the command `loading.py`."""
