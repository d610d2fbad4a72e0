"""Modules of the command `soak.py`."""
