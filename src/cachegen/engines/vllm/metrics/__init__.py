"""Counts of both sides: on vLLM's `/metrics`, in its log."""
