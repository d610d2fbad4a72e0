"""A context in Redis, which may throw objects out: what is gone is computed again.

    python examples/redis_store.py redis://:password@host:6379/0

A Redis with `maxmemory-policy allkeys-lru` is a good cache for contexts: a load asks for what is
there, and recomputes a chunk that was evicted. Here one chunk is deleted to show that.
"""

import sys

from transformers import AutoModelForCausalLM, AutoTokenizer

from cachegen import open_store
from cachegen.engines.transformers import load_context, save_context
from cachegen.refmodel import load_text, weights_path

EVICTED = 1


def show(loaded, text: str) -> None:
    """Where every chunk came from."""
    for chunk in loaded.result.chunks:
        came = "recomputed" if chunk.level == "text" else f"fetched at {chunk.level}"
        print(f"{text}: tokens {chunk.start}..{chunk.stop} {came}")


def main(url: str) -> None:
    """Save a text to the store at this URL, load it, lose a chunk, load it again."""
    model = AutoModelForCausalLM.from_pretrained(weights_path(), dtype="auto").eval()
    tokenizer = AutoTokenizer.from_pretrained(weights_path())
    document = tokenizer(load_text("heldout-craik")[:1700]).input_ids

    store = open_store(url)
    manifest = save_context(model, document, store=store, levels=("low", "high"), chunk_tokens=256)
    num_bytes = sum(stored.size_bytes for chunk in manifest.chunks for stored in chunk.objects)
    print(f"{store.url}: {manifest.num_tokens} tokens in {num_bytes} bytes, all levels")
    show(load_context(model, document, store=store, level="high"), "whole")

    for stored in manifest.chunks[EVICTED].objects:
        store.delete(stored.key)
    loaded = load_context(model, document, store=store, level="high")
    show(loaded, "after an eviction")
    print(f"{loaded.num_tokens} of {len(document)} tokens are there in any case")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
