"""Modules of the command `kernels.py`."""
