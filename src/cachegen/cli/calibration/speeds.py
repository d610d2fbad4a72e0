"""Measurements, within seconds, of this machine's speed at the work of calibration."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from cachegen.cli.calibration.costs import Shape, Speeds

# Arbitrary: 256 to 2,048, and 8 to 64, tokens do: long enough for full speed, and for what a model
# prepares at its first pass.
_PROBE_TOKENS, _WARM_TOKENS = 512, 32
# The probe is shortened where the short pass tells that it would take longer. Arbitrary: 2 to 10 s
# do.
_MOST_PROBE_S = 4.0
# Arbitrary: half to twice as large do. Products and eigenvectors of some tenths of a second, of
# matrices about as large as those of layer groups.
_ROWS, _COLUMNS = 1024, 2048
_EIGEN_COLUMNS = 1024
# Arbitrary: 256 to 1,024 do; features are computed for 1,024 texts at once.
_SHORT_TOKENS = 512


def measure_speeds(writer: Any, twin: Any, tokens: Sequence[int], shape: Shape) -> Speeds:
    """Time passes of the models, products and eigenvectors.

    Args:
        writer: the model that prefills.
        twin: the model in float32; perhaps the same.
        tokens: any text that the model may see, of at least one token.
        shape: of the model.
    """
    own = _pass_flops(writer, tokens, shape)
    rows = torch.ones(_ROWS, _COLUMNS)
    square = torch.ones(_EIGEN_COLUMNS, _EIGEN_COLUMNS, dtype=torch.float64)
    symmetric = square.cumsum(dim=0) + square.cumsum(dim=0).T
    sums = torch.zeros(_COLUMNS, _COLUMNS, dtype=torch.float64)
    product = rows.T @ rows
    return Speeds(
        own=own,
        twin=own if twin is writer else _pass_flops(twin, tokens, shape),
        short=_short_flops(writer, shape),
        float32=2 * _ROWS * _COLUMNS**2 / _took_s(lambda: rows.T @ rows),
        float64=2 * _EIGEN_COLUMNS**3 / _took_s(lambda: square @ square),
        eigenvectors=_EIGEN_COLUMNS**3 / _took_s(lambda: torch.linalg.eigh(symmetric)),
        copied=sums.nbytes / _took_s(lambda: sums.add_(product)),
    )


def _pass_flops(network: Any, tokens: Sequence[int], shape: Shape) -> float:
    """FLOP in a second of prefilling."""
    few = tokens[:_WARM_TOKENS]
    _prefill(network, few)
    each_s = _took_s(lambda: _prefill(network, few), times=1) / len(few)
    count = min(_PROBE_TOKENS, len(tokens), max(len(few), int(_MOST_PROBE_S / each_s)))
    return shape.flop(count) / _took_s(lambda: _prefill(network, tokens[:count]), times=1)


def _prefill(network: Any, tokens: Sequence[int]) -> None:
    from cachegen.engines import transformers as engine
    from cachegen.loading.accelerator import synchronize

    synchronize(engine.capture(network, tokens).device)


def _short_flops(network: Any, shape: Shape) -> float:
    """FLOP in a second of passes over many single tokens, as features are computed."""
    from cachegen.engines.transformers.forward_pass import read_on
    from cachegen.engines.transformers.layers import new_cache
    from cachegen.engines.transformers.model import input_device
    from cachegen.loading.accelerator import synchronize

    count = min(_SHORT_TOKENS, shape.vocabulary)
    texts = torch.arange(count)[:, None].to(input_device(network))

    def read() -> None:
        read_on(network, texts, new_cache(network))
        synchronize(texts.device)

    took_s = _took_s(read, times=2)
    return 2.0 * count * (shape.body + shape.head) / took_s


def _took_s(work: Callable[[], object], *, times: int = 3) -> float:
    """Seconds of the fastest of some runs; the number of runs is arbitrary: 2 to 5 do."""
    found = []
    for _ in range(times):
        began_s = time.perf_counter()
        work()
        found.append(time.perf_counter() - began_s)
    return max(min(found), 1e-9)


def shape_of(network: Any) -> Shape:
    """Sizes of a transformers model and of its caches."""
    from cachegen.engines import transformers as engine

    geometry = engine.capture(network, [0]).geometry
    embedding, head = network.get_input_embeddings(), network.get_output_embeddings()
    head_size = 0 if head is None else sum(one.numel() for one in head.parameters())
    others = {id(one) for module in (embedding, head) if module for one in module.parameters()}
    body = sum(one.numel() for one in network.parameters() if id(one) not in others)
    config = network.config.get_text_config()
    heads = int(getattr(config, "num_attention_heads", 0) or 1)
    hidden = int(getattr(config, "hidden_size", 0) or embedding.weight.shape[1])
    width = int(getattr(config, "head_dim", 0) or hidden // heads)
    return Shape(
        body=body,
        head=head_size,
        attention=4 * heads * width * geometry.num_layers,
        vocabulary=embedding.weight.shape[0],
        values=geometry.values_per_token,
        value_bytes=geometry.dtype.itemsize,
        feature_columns=embedding.weight.shape[1] + geometry.values_per_token,
    )
