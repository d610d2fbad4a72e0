"""Who computed a cache: a digest of weights, configuration, adapters and types."""
