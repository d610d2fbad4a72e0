"""Sections of a result beside its rows: parts of the codec, costs; and what makes them all."""
