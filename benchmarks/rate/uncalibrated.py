"""Coding without a profile, level by level, and how it is measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from cachegen.bitstream.format import pack, unpack
from cachegen.codec import codec, plain
from cachegen.codec.encoded import EncodedChunk
from cachegen.codec.levels import PACKED, UNCALIBRATED_LADDER
from cachegen.codec.model import model_to_arrays
from cachegen.codec.rope import RopeMap
from cachegen.engines.transformers.tasks import first_tokens
from cachegen.engines.transformers.text_windows import Window, cut_windows
from cachegen.kvcache import KVCache

CONTEXT_TOKENS, CONTINUATION_TOKENS = 1536, 128
PLAIN_STEPS = {"plain medium": 0.35, "plain high": 0.2, "plain highest": 0.1}
Encode = Callable[[KVCache], EncodedChunk]


def measure(encode: Encode, judge: Any, domain: str) -> dict[str, object]:
    """Bits of all stored bytes, quality, and seconds of processor time."""
    spent = {"bytes": 0, "values": 0, "encode_s": 0.0, "decode_s": 0.0}

    def roundtrip(kv: KVCache, _: Any) -> KVCache:
        began = time.process_time()
        data = pack(encode(kv))
        spent["encode_s"] += time.process_time() - began
        began = time.process_time()
        decoded = codec.decode_chunk(unpack(data))
        spent["decode_s"] += time.process_time() - began
        spent["bytes"] += len(data)
        spent["values"] += kv.num_values
        return decoded

    quality = judge(roundtrip)[domain]
    return {
        "bits_per_value": round(8 * spent["bytes"] / spent["values"], 4),
        "kl": round(quality.kl, 6),
        "rel_ppl": round(quality.rel_ppl, 6),
        "top1": round(quality.top1, 5),
        "num_tokens": quality.num_tokens,
        "encode_cpu_s": round(spent["encode_s"], 3),
        "decode_cpu_s": round(spent["decode_s"], 3),
    }


def encoders_of(rope: RopeMap) -> dict[str, Encode]:
    def by_level(name: str) -> Encode:
        return lambda kv: codec.encode_chunk(kv, level=name, rope=rope)

    def by_plain(step: float) -> Encode:
        return lambda kv: _plain(kv, rope, step)

    names = [level.name for level in reversed(UNCALIBRATED_LADDER)]
    found = {name: by_level(name) for name in [*names, PACKED]}
    return found | {name: by_plain(step) for name, step in PLAIN_STEPS.items()}


def _plain(kv: KVCache, rope: RopeMap, step: float) -> EncodedChunk:
    model = plain.fit(kv, rope, step)
    blocks, arrays = plain.encode(kv, model, threads=2)
    return EncodedChunk(
        level="plain",
        codec="plain",
        geometry=kv.geometry,
        start=kv.start,
        num_tokens=kv.num_tokens,
        tokens_held=tuple(key.shape[1] for key in kv.keys),
        blocks=blocks,
        arrays=arrays | model_to_arrays(model),
    )


def read_windows(data: Path, model: Path, count: int) -> dict[str, list[Window]]:
    tokenizer = AutoTokenizer.from_pretrained(model)
    found = {}
    for path in sorted(data.glob("*.txt")):
        text = path.read_text(encoding="utf-8")
        ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        found[path.stem] = cut_windows(
            [ids],
            num_tokens=CONTEXT_TOKENS,
            continuation_tokens=CONTINUATION_TOKENS,
            count=count,
            prefix=first_tokens(tokenizer),
            overlap=True,
        )
    return found
