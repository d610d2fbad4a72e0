"""What the benchmarks of vLLM are made of: servers, a client, prompts, measurements."""
