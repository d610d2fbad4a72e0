"""The attention that a context's tokens pay to each other, asked of the model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import pad

from cachegen.engines.transformers.layers import token_layers, unbounded_cache
from cachegen.engines.transformers.model import accepts, input_device, plain_model
from cachegen.evaluation.coder import Tokens

# Queries of a pass times tokens that they look at, of each head: bounds memory. At most 1 GB in
# models of 30 layers with 9 heads.
_MOST_WEIGHTS = 2**18
_ALONE = threading.Lock()


def received(model: Any, tokens: Tokens) -> list[torch.Tensor]:
    """Of every layer, what each token gets from all queries: float32 (kv heads, tokens)."""
    total: list[torch.Tensor] = []
    for weights in attention(model, tokens):
        sums = [layer.sum(dim=1) for layer in weights]
        if not total:
            total = [torch.zeros(len(layer), len(tokens)) for layer in sums]
        for whole, part in zip(total, sums, strict=True):
            whole[:, : part.shape[1]] += part
    return total


def from_last(model: Any, tokens: Tokens, *, window: int) -> list[torch.Tensor]:
    """Of every layer, the weights of the last queries: float32 (kv heads, queries, tokens)."""
    pieces = attention(model, tokens, first=len(tokens) - window)
    padded = [[pad(layer, (0, len(tokens) - layer.shape[2])) for layer in one] for one in pieces]
    return [torch.cat(queries, dim=1) for queries in zip(*padded, strict=True)]


def attention(model: Any, tokens: Tokens, *, first: int = 0) -> Iterator[list[torch.Tensor]]:
    """The weights of the queries from `first` on, some queries at a time.

    Yields:
        Of every layer float32 (kv heads, queries, tokens up to the last of these queries), the mean
        over the query heads that share keys.

    Raises:
        ValueError: the model does not give the attention of all layers to all tokens.
    """
    run = plain_model(model)
    cache = unbounded_cache(model)
    few = {"logits_to_keep": 1} if accepts(run, "logits_to_keep") else {}
    step = max(1, _MOST_WEIGHTS // len(tokens))
    starts = [*([0] if first else []), *range(first, len(tokens), step)]
    for start, stop in zip(starts, [*starts[1:], len(tokens)], strict=True):
        ids = torch.tensor([list(tokens[start:stop])], device=input_device(model))
        if start < first:
            with torch.no_grad():
                run(input_ids=ids, past_key_values=cache, use_cache=True, **few)
            continue
        with _eager(run), torch.no_grad():
            found = run(
                input_ids=ids, past_key_values=cache, use_cache=True, output_attentions=True, **few
            ).attentions
        heads = [layer.keys.shape[1] for layer in token_layers(cache)]
        yield _of_kv_heads(found, heads, stop)


def _of_kv_heads(found: Any, heads: list[int], num_tokens: int) -> list[torch.Tensor]:
    """The mean over the query heads of each KV head."""
    if found is None or len(found) != len(heads) or any(w.shape[-1] != num_tokens for w in found):
        raise ValueError(
            "expected the attention of every layer to all tokens; the model gives none, or has "
            "layers that look at a window, or at something else than tokens"
        )
    return [
        weights[0].float().cpu().unflatten(0, (count, -1)).mean(dim=1)
        for weights, count in zip(found, heads, strict=True)
    ]


@contextmanager
def _eager(model: Any) -> Iterator[None]:
    """With the attention that tells its weights; the model's own comes back."""
    with _ALONE:
        before = model.config._attn_implementation
        model.set_attn_implementation("eager")
        try:
            yield
        finally:
            model.set_attn_implementation(before)
