"""Modules of the commands `rate_*.py` and `uncalibrated.py`."""
