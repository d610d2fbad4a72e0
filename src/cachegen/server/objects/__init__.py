"""The objects of a store within limits: what is there, who holds how much, who uses what."""
