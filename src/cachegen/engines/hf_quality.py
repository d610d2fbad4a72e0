"""What calibration asks of a model: sample caches, and how well continuations survive coding."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import kl_div, log_softmax
from transformers import PreTrainedModel

from cachegen.codec.levels import Quality
from cachegen.engines.hf_cache import Tokens, capture, new_cache, token_ids, token_layers
from cachegen.kvcache import KVCache

RoundTrip = Callable[[KVCache], KVCache]


@dataclass(frozen=True, slots=True)
class Window:
    """A piece of text for measuring quality.

    Attributes:
        context: tokens whose cache is coded.
        continuation: the tokens that follow. Each but the last is read on top of the context,
            each but the first is predicted.
    """

    context: tuple[int, ...]
    continuation: tuple[int, ...]


def spread(texts: Sequence[Tokens], *, num_tokens: int, count: int) -> list[tuple[int, ...]]:
    """Pieces of `num_tokens` tokens, spread evenly over texts of any length.

    Raises:
        ValueError: the texts are too short for so many pieces that do not overlap.
    """
    pieces = [
        ids[start : start + num_tokens]
        for ids in map(token_ids, texts)
        for start in range(0, len(ids) - num_tokens + 1, num_tokens)
    ]
    if count < 1 or len(pieces) < count:
        raise ValueError(
            f"expected text for {count} pieces of {num_tokens} tokens, got enough for "
            f"{len(pieces)}; give more text or ask for fewer or shorter pieces"
        )
    return [pieces[index * len(pieces) // count] for index in range(count)]


def samples(
    model: PreTrainedModel, texts: Sequence[Tokens], *, num_tokens: int, count: int
) -> Iterator[KVCache]:
    """Caches of `count` pieces of the texts, computed one at a time."""
    for piece in spread(texts, num_tokens=num_tokens, count=count):
        yield capture(model, piece)


def cut_windows(
    texts: Sequence[Tokens], *, num_tokens: int, continuation_tokens: int = 128, count: int
) -> list[Window]:
    """Windows with contexts of `num_tokens` tokens, spread evenly over the texts."""
    pieces = spread(texts, num_tokens=num_tokens + continuation_tokens + 1, count=count)
    return [Window(piece[:num_tokens], piece[num_tokens:]) for piece in pieces]


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """Windows that run together.

    Attributes:
        caches: of their contexts, uncompressed.
        inputs: (windows, tokens): the continuations but for their last token.
        targets: (windows, tokens): the continuations but for their first token.
        logits: (windows, tokens, vocabulary) of the uncompressed run.
    """

    caches: tuple[KVCache, ...]
    inputs: torch.Tensor
    targets: torch.Tensor
    logits: torch.Tensor


def evaluator(
    model: PreTrainedModel, windows: Sequence[Window], *, batch_windows: int = 8
) -> Callable[[RoundTrip], Quality]:
    """Prefill the windows once; the function returned measures one lossy round trip after another.

    It codes every context, continues from the result along the given tokens and compares the
    predictions with those of the uncompressed run.

    Args:
        model: the model that made, and will continue, the contexts.
        windows: pieces of held-out text; all contexts and all continuations equally long.
        batch_windows: windows that are continued together.

    Raises:
        ValueError: no windows, or windows of different lengths.
    """
    if len({(len(w.context), len(w.continuation)) for w in windows}) != 1:
        raise ValueError("expected at least one window, and all of the same lengths")
    batches = [
        _prepare(model, windows[first : first + batch_windows])
        for first in range(0, len(windows), batch_windows)
    ]

    def evaluate(roundtrip: RoundTrip) -> Quality:
        found = torch.cat([_differences(model, batch, roundtrip) for batch in batches], dim=1)
        kl, log_perplexity, agree = found.mean(dim=1).tolist()
        return Quality(kl, math.expm1(log_perplexity), agree, num_tokens=found.shape[1])

    return evaluate


def _prepare(model: PreTrainedModel, windows: Sequence[Window]) -> _Batch:
    caches = tuple(capture(model, window.context) for window in windows)
    tokens = torch.tensor([window.continuation for window in windows], device=model.device)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    return _Batch(caches, inputs, targets, _continue(model, caches, inputs))


@torch.no_grad()
def _continue(
    model: PreTrainedModel, caches: Sequence[KVCache], inputs: torch.Tensor
) -> torch.Tensor:
    """Logits (windows, tokens, vocabulary) of tokens read on top of the caches."""
    cache = new_cache(model)
    for index, layer in enumerate(token_layers(cache)):
        layer.update(
            torch.stack([kv.keys[index] for kv in caches]).to(model.device),
            torch.stack([kv.values[index] for kv in caches]).to(model.device),
        )
    logits: torch.Tensor = model(input_ids=inputs, past_key_values=cache, use_cache=True).logits
    return logits


@torch.no_grad()
def _differences(model: PreTrainedModel, batch: _Batch, roundtrip: RoundTrip) -> torch.Tensor:
    """Float64 (3, tokens): KL, change of the log-likelihood's negative, 1 where top-1 agrees."""
    coded = [roundtrip(kv) for kv in batch.caches]
    before = log_softmax(batch.logits.double(), dim=-1).flatten(0, 1)
    after = log_softmax(_continue(model, coded, batch.inputs).double(), dim=-1).flatten(0, 1)
    kl = kl_div(after, before, reduction="none", log_target=True).sum(dim=-1)
    targets = batch.targets.flatten()[:, None]
    nll = (before - after).gather(1, targets)[:, 0]
    return torch.stack((kl, nll, (after.argmax(-1) == before.argmax(-1)).double()))
