"""A context in a bucket: saved, looked at, and loaded within a deadline.

    AWS_REGION=eu-central-1 AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=... \
        python examples/s3.py s3://bucket/prefix

Credentials come from the environment and never from the URL; AWS_ENDPOINT=http://host:port means
MinIO or any other server of the protocol. `gs://` and `az://` work in the same way.
"""

import sys
from collections import Counter

from transformers import AutoModelForCausalLM, AutoTokenizer

from cachegen import open_store
from cachegen.engines.transformers import load_context, save_context
from cachegen.refmodel import load_text, weights_path


def sizes_by_level(manifest) -> Counter:
    """Bytes of a context at every level that it is stored at."""
    sizes: Counter = Counter()
    for chunk in manifest.chunks:
        for stored in chunk.objects:
            sizes[stored.level] += stored.size_bytes
    return sizes


def main(url: str) -> None:
    """Save a text to the store at this URL and load it."""
    model = AutoModelForCausalLM.from_pretrained(weights_path(), dtype="auto").eval()
    tokenizer = AutoTokenizer.from_pretrained(weights_path())
    document = tokenizer(load_text("heldout-craik")[:1700]).input_ids

    store = open_store(url)
    levels = ("low", "high", "lossless")
    manifest = save_context(model, document, store=store, levels=levels, chunk_tokens=256)
    print(f"{store.url} holds {len(list(store.list()))} objects")
    for level, size_bytes in sizes_by_level(manifest).items():
        print(f"{level:8} {size_bytes:7} bytes in {len(manifest.chunks)} chunks")

    loaded = load_context(model, document, store=store, slo_s=10.0)
    for timed in loaded.result.decisions:
        chosen = timed.decision
        doing = f"{chosen.action} chunk {chosen.chunk} at {chosen.level}: {chosen.reason}"
        print(f"{timed.at_s:.3f} s: {doing}")
    levels_had = sorted({chunk.level or "missing" for chunk in loaded.result.chunks})
    print(f"loaded {loaded.num_tokens} of {len(document)} tokens at {', '.join(levels_had)}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
