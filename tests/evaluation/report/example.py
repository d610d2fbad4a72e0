"""A run that nobody made, for tests of the report."""

from __future__ import annotations

from typing import Any

DATASETS = {"topics": 20, "articles": 12}
# Method: level, bits a value, KL on both datasets.
CURVES = {
    "cachegen": (("low", 0.13, 0.026), ("high", 0.5, 0.002), ("highest", 0.8, 0.0008)),
    "kvtc": (("1", 1.0, 0.03), ("2", 2.0, 0.003)),
    "uniform": (("8", 8.25, 0.0001),),
    "text": (("text", 0.001, 0.0),),
}


def row(method: str, level: str, dataset: str, bits: float, kl: float, **more: Any) -> dict:
    asks = dataset == "topics"
    found = {
        "method": method,
        "level": level,
        "dataset": dataset,
        "tokens": 1536,
        "bits_per_value": bits,
        "bits_per_value_interval": [bits * 0.9, bits * 1.1],
        "kl": kl,
        "kl_interval": [kl * 0.8, kl * 1.2],
        "rel_ppl": None if asks else kl,
        "rel_ppl_interval": None if asks else [0.0, 2 * kl],
        "top1": 0.97,
        "score": 0.8 if asks else None,
        "score_interval": [0.7, 0.9] if asks else None,
        "score_uncompressed": 0.82 if asks else None,
        "n": DATASETS[dataset],
    }
    return found | more


def result(name: str = "Small-1M", **more: Any) -> dict[str, Any]:
    """All that a result must have, and rows."""
    found = {
        "command": "cachegen eval --model small --data texts --out report",
        "commit": "0123456789ab",
        "date": "2026-01-02",
        "machine": "2 x Some Processor",
        "versions": {"torch": "2.0"},
        "seed": 5,
        "quick": False,
        "kl_arithmetic": "float32",
        "prefill_arithmetic": "bfloat16",
        "model": {
            "name": name,
            "layers": 2,
            "kv_heads": 1,
            "head_dim": 8,
            "values_per_token": 32,
            "dtype": "bfloat16",
            "parameters": 1_000_000,
            "positions": 2048,
        },
        "methods": {name: {"description": f"does {name}", "source": "a paper"} for name in CURVES},
        "datasets": {one: {"description": "a text", "cases": n} for one, n in DATASETS.items()},
        "rows": [
            row(method, level, dataset, bits, kl)
            for method, levels in CURVES.items()
            for level, bits, kl in levels
            for dataset in DATASETS
        ],
        "failures": [],
        "summary": {
            "default_level": "high",
            "noise_floor_kl": 0.00001,
            "default_bits_per_value": 0.5,
            "default_kl": 0.002,
            "default_rel_ppl": 0.0016,
            "score_drop": 0.02,
            "kvtc_bits_at_default_kl": 2.5,
            "kvserve_bits_at_default_kl": None,
            "paper_bits_at_default_kl": 5.0,
            "int8_bits": 8.25,
            "decode_over_prefill": 0.012,
            "encode_over_prefill": 0.08,
        },
    }
    return found | more


def time(method: str, mbit_s: float | None, p50: float, **more: Any) -> dict[str, Any]:
    """One row of times to the first token."""
    found = {
        "mbit_s": mbit_s,
        "context_tokens": 4096,
        "concurrency": 1,
        "method": method,
        "level": "text" if method == "text" else "adaptive",
        "ttft_s_p50": p50,
        "ttft_s_p95": p50 * 1.1,
        "n": 7,
        "bytes": 1000,
        "fetch_s": 0.1,
        "decode_s": 0.01,
        "recompute_s": 0.0,
    }
    return found | more


def everything(name: str = "Small-1M") -> dict[str, Any]:
    """A result with every section."""
    return result(
        name,
        failures=[{"method": "kivi", "level": "2", "reason": "ValueError: odd head"}],
        ttft=[
            time(method, rate, seconds)
            for rate in (5.0, 50.0, 500.0)
            for method, seconds in (("text", 2.0), ("cachegen", 10 / rate + 0.1))
        ],
        slo=[
            {
                "trace": "random",
                "deadline_s": deadline,
                "policy": policy,
                "met": met,
                "mean_kl": 0.002,
                "n": 100,
            }
            for deadline in (1.0, 2.0)
            for policy, met in (("adaptive", 0.9), ("text", 0.2))
        ],
        timeline=[
            {"t_s": 0.1 * place, "mbit_s": 50.0 - place, "chunk": place, "choice": choice}
            for place, choice in enumerate(("high", "low", "text"))
        ],
        ablation=[
            {"step": "rounding", "bits_per_value": 4.0, "kl": 0.002},
            {"step": "entropy coding", "bits_per_value": 2.0, "kl": 0.002},
        ],
        breakdown=[{"part": "decode", "seconds": 0.05, "share_of_prefill": 0.012}],
        cost=[{"what": "storing", "value": 1.5, "unit": "MB", "formula": "values x bits / 8"}],
    )
