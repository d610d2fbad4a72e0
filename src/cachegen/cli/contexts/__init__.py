"""`cachegen save`, `load` and `contexts`: into a store, out of it, and what it holds."""
