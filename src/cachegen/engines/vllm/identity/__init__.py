"""Who computes a cache inside vLLM: the model, the engine's settings, and each request."""
