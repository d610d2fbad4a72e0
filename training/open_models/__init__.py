"""Open models as ordinary transformers folders: fetched, checked, converted, calibrated."""
