"""KV caches of long contexts: encoded small, stored anywhere, loaded fast."""
