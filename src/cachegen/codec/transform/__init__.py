"""Codec `transform`: learned transforms of keys and values together, predicted from the text."""
