"""Codec `adaptive`: no profile; a chunk learns from itself how its coefficients hang together."""
