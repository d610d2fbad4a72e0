"""Peak memory of loading a large cache: more than the cache itself by how much?

.venv/bin/python benchmarks/memory.py [--gib 1.0] [--level high] [--chunk-tokens 1536] [--json]

A synthetic cache of an 8 B model's geometry (no model) is stored chunk by chunk; a fresh process
loads it and reports its peak resident memory above what it had before the load.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from record import append

NUM_LAYERS, HEADS, DIM = 32, 8, 128
BYTES_PER_TOKEN = 2 * NUM_LAYERS * HEADS * DIM * 2
FINGERPRINT = bytes(range(32))
LOADER = "--load"


def main() -> None:
    if LOADER in sys.argv:
        load_here(sys.argv[-2], sys.argv[-1])
        return
    arguments = _arguments()
    num_tokens = int(arguments.gib * 2**30 / BYTES_PER_TOKEN)
    with tempfile.TemporaryDirectory() as folder:
        store_synthetic(folder, num_tokens, arguments.level, arguments.chunk_tokens)
        command = [sys.executable, __file__, LOADER, folder, str(num_tokens)]
        environment = {**os.environ, "CACHEGEN_CACHE_DIR": folder}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    asked = {"level": arguments.level, "chunk_tokens": arguments.chunk_tokens}
    result = json.loads(done.stdout) | asked
    append("memory", [result])
    print(
        json.dumps(result) if arguments.json else "\n".join(f"{k}: {v}" for k, v in result.items())
    )


def store_synthetic(folder: str, num_tokens: int, level: str, chunk_tokens: int) -> None:
    """Smooth noise, one chunk at a time, so that this needs little memory itself."""
    import torch

    from cachegen.contexts.save import save
    from cachegen.kvcache import KVCache
    from cachegen.store import open_store

    store = open_store(folder)
    planes = _planes(min(chunk_tokens, num_tokens))
    for start in range(0, num_tokens, chunk_tokens):
        stop = min(start + chunk_tokens, num_tokens)
        shift = 1 + start / num_tokens
        parts = [(shift * plane[:, : stop - start]).to(torch.bfloat16) for plane in planes]
        kv = KVCache(tuple(parts[0::2]), tuple(parts[1::2]), stop - start, start=start)
        save(
            kv,
            tokens=list(range(stop)),
            store=store,
            levels=[level],
            chunk_tokens=chunk_tokens,
            fingerprint=FINGERPRINT,
        )


def load_here(folder: str, num_tokens: str) -> None:
    """Load everything, check it, print the peak."""
    from cachegen.loading.load import load
    from cachegen.store import open_store

    store, tokens = open_store(folder), list(range(int(num_tokens)))
    before = _peak_bytes()
    result = load(tokens, store=store, fingerprint=FINGERPRINT)
    peak = _peak_bytes() - before
    kv = result.kv
    assert kv is not None and kv.num_tokens == int(num_tokens)
    levels = sorted({chunk.level or "missing" for chunk in result.chunks})
    print(
        json.dumps(
            {
                "cache_bytes": kv.size_bytes,
                "peak_bytes_above_baseline": peak,
                "peak_over_cache": round(peak / kv.size_bytes, 3),
                "levels": " ".join(levels),
                "chunks": len(result.chunks),
            }
        )
    )


def _planes(num_tokens: int) -> list[object]:
    import torch

    generator = torch.Generator().manual_seed(7)
    shape = (HEADS, num_tokens, DIM)
    return [torch.randn(shape, generator=generator) for _ in range(2 * NUM_LAYERS)]


def _peak_bytes() -> int:
    """Peak resident memory of this process so far."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=1.0, help="size of the decoded cache")
    parser.add_argument("--level", default="high", help="level it is stored at")
    parser.add_argument("--chunk-tokens", type=int, default=1536, help="that of `save`")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
