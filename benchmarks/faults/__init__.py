"""Modules of the command `faults.py`."""
