"""vLLM's paged KV cache as planes of tokens: how blocks are laid out, read and written."""
