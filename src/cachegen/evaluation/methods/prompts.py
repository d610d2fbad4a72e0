"""Methods that store text: all of it, or a shorter one.

`text`: the token ids; the cache is computed again, which costs no quality and all of prefill.

`llmlingua`: in the style of LLMLingua (Jiang et al., EMNLP 2023, arXiv 2310.05736): the tokens that
the model expects most are dropped, and the cache is that of the shorter text. Published are a small
model that decides, budgets for parts of a prompt, and pieces of 100 tokens that are judged behind
what is left of those before. Here the model itself decides, in one pass over the whole text, as in
Selective Context (Li et al., EMNLP 2023, arXiv 2310.06201): the larger model in its favour, the
single pass, without budgets, to its disadvantage. The first four tokens are kept, in its favour:
models draw attention to whatever comes first.

`llmlingua+ours` stores the cache of the shorter text, coded by this package's default level, beside
its ids, in place of computing it again.

Ids take whole bytes each, as few as the vocabulary needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import torch

from cachegen.engines.transformers.cache import capture
from cachegen.engines.transformers.layers import unbounded_cache
from cachegen.engines.transformers.model import input_device, plain_model, vocabulary_size
from cachegen.engines.transformers.quality import as_dtype
from cachegen.evaluation.coder import Coder, Tokens
from cachegen.evaluation.methods.planes import Reader
from cachegen.kvcache import Geometry, KVCache

SHARES = (0.5, 0.25, 0.1)
SINKS = 4
# Tokens of a pass: bounds the memory of logits, 256 MB with a vocabulary of 150,000 in float32.
_PASS_TOKENS = 256
# A context's figures are kept for the other shares.
_REMEMBERED = 64
_COUNT_BYTES = 4

# Nats of every token of a context.
Surprises = Callable[[tuple[int, ...]], torch.Tensor]
# A text to the shorter one.
Shortened = Callable[[Tokens], list[int]]


def text_coder(model: Any, geometry: Geometry) -> Coder:
    """All token ids."""
    width = id_bytes(model)

    def encode(kv: KVCache, tokens: Tokens) -> bytes:
        del kv
        return pack_ids(tokens, width)

    return Coder("text", "all", encode, partial(_recompute, model, geometry, width))


def surprises_of(model: Any) -> Surprises:
    """The self-information of tokens, remembered for some contexts."""
    return lru_cache(_REMEMBERED)(partial(self_information, model))


def llmlingua_coders(
    model: Any,
    geometry: Geometry,
    surprises: Surprises,
    *,
    shares: Sequence[float] = SHARES,
    inner: Coder | None = None,
) -> Iterator[Coder]:
    """A coder for each share of tokens that are kept.

    Args:
        model: computes the caches of the shorter texts.
        geometry: of the caches.
        surprises: of the model.
        shares: of the tokens.
        inner: codes the caches of the shorter texts; where it is None they are computed again.
    """
    width = id_bytes(model)
    for share in shares:

        def shortened(tokens: Tokens, share: float = share) -> list[int]:
            return [tokens[place] for place in most_surprising(surprises(tuple(tokens)), share)]

        if inner is None:
            name, decode = "llmlingua", partial(_recompute, model, geometry, width)
            encode = partial(_encode_ids, shortened, width)
        else:
            name, decode = "llmlingua+ours", partial(_decode_both, inner, width)
            encode = partial(_encode_both, shortened, model, geometry, inner, width)
        yield Coder(name, f"{share:g}", encode, decode, is_shorter_text=True)


def _encode_ids(shortened: Shortened, width: int, kv: KVCache, tokens: Tokens) -> bytes:
    del kv
    return pack_ids(shortened(tokens), width)


def _encode_both(
    shortened: Shortened,
    model: Any,
    geometry: Geometry,
    inner: Coder,
    width: int,
    kv: KVCache,
    tokens: Tokens,
) -> bytes:
    del kv
    ids = shortened(tokens)
    small = as_dtype(capture(model, ids), geometry.dtype)
    count = len(ids).to_bytes(_COUNT_BYTES, "little")
    return count + pack_ids(ids, width) + inner.encode(small, ids)


def _decode_both(inner: Coder, width: int, data: bytes, tokens: Tokens) -> KVCache:
    del tokens
    reader = Reader(data)
    count = int.from_bytes(reader.take(_COUNT_BYTES), "little")
    ids = unpack_ids(reader.take(count * width), width)
    return inner.decode(reader.rest(), ids)


@torch.no_grad()
def self_information(model: Any, tokens: Tokens) -> torch.Tensor:
    """Nats of each token given those before it, float32 (tokens,); infinite of the first one."""
    run, cache = plain_model(model), unbounded_cache(model)
    ids = torch.tensor(list(tokens), device=input_device(model))
    found = [torch.tensor([torch.inf])]
    for first in range(0, len(ids), _PASS_TOKENS):
        piece = ids[first : first + _PASS_TOKENS]
        logits = run(input_ids=piece[None], past_key_values=cache, use_cache=True).logits[0]
        targets = ids[first + 1 : first + 1 + len(piece)]
        likelihood = logits[: len(targets)].float().log_softmax(dim=-1)
        found.append(-likelihood.gather(1, targets[:, None])[:, 0].cpu())
    return torch.cat(found)


def most_surprising(surprises: torch.Tensor, share: float) -> list[int]:
    """Places of the tokens that are kept, ascending, the first four among them."""
    count = min(len(surprises), max(SINKS, round(share * len(surprises))))
    ranked = surprises.clone()
    ranked[:SINKS] = torch.inf
    order = ranked.argsort(descending=True, stable=True)
    return sorted(order[:count].tolist())


def id_bytes(model: Any) -> int:
    """How many bytes an id takes."""
    return -(-(vocabulary_size(model) - 1).bit_length() // 8)


def pack_ids(tokens: Tokens, width: int) -> bytes:
    """Ids, little-endian."""
    return b"".join(int(token).to_bytes(width, "little") for token in tokens)


def unpack_ids(data: bytes, width: int) -> list[int]:
    """The inverse of `pack_ids`."""
    starts = range(0, len(data), width)
    return [int.from_bytes(data[start : start + width], "little") for start in starts]


def _recompute(model: Any, geometry: Geometry, width: int, data: bytes, tokens: Tokens) -> KVCache:
    del tokens
    return as_dtype(capture(model, unpack_ids(data, width)), geometry.dtype)
