"""Modules of the command `slo.py`."""
