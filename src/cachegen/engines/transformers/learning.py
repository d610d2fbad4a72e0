"""What calibration learns from: sample contexts, what the model reads of them, its vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import zip_longest

import numpy as np
import torch
from torch.nn.functional import log_softmax
from transformers import PreTrainedModel

from cachegen.codec.calibration.progress import Progress, Status, silent
from cachegen.codec.calibration.sample import START, Position, Sample
from cachegen.codec.rope import Rotation, rotations, turn
from cachegen.engines.transformers.cache import capture, to_cache
from cachegen.engines.transformers.inputs import Tokens, token_ids
from cachegen.engines.transformers.layers import new_cache, token_layers
from cachegen.engines.transformers.model import input_device, plain_model
from cachegen.engines.transformers.quality import as_dtype
from cachegen.engines.transformers.rope import rope_map
from cachegen.engines.transformers.text_windows import spread
from cachegen.kvcache import KVCache

# Labels are what the metric is starved of: with 4 turns in place of 1 SmolLM2, from 48 contexts,
# takes 5 to 7% fewer bits at equal KL (docs/LOG.md, 2026-12-01; the shipped model does not tell 1
# to 8 apart). A turn takes as long as reading what follows a context twice.
DRAWS = 4
_PHASE = "features"
# Arbitrary: any seed does.
_PROJECTION_SEED = 0
# Tokens that the root mean squares of columns are measured on: they err by 1 / sqrt(2 * 1024), 2%.
_HEARD = 1024
_TINY = 1e-20
# Of a larger vocabulary the model is asked for no more: of 150,000 tokens that saves five sixths.
MOST_TOKENS = 24_576
# Of the mean of the diagonal. With the features of half its tokens predicted, the shipped model
# took 0.245, 0.246 and 0.238 bits at a KL of 0.003 with 10^-5, 10^-4 and 10^-3: the last may be
# better (docs/LOG.md, 2026-11-29, tuned constants).
_RIDGE = 1e-4


def samples(
    model: PreTrainedModel,
    texts: Sequence[Tokens],
    *,
    num_tokens: int,
    count: int,
    continuation_tokens: int = 128,
    draws: int = DRAWS,
    seed: int = 0,
    prefix: Sequence[int] = (),
    twin: PreTrainedModel | None = None,
    dtype: torch.dtype | None = None,
    after: Position = START,
) -> Iterator[Sample]:
    """Contexts computed one at a time, as many of each text where it is long enough.

    They are the same for the same seed.

    Args:
        model: a causal language model, in eval mode.
        texts: tokens like those that will be coded.
        num_tokens: tokens of a context, its prefix included.
        count: contexts.
        continuation_tokens: how much of what follows each context is read for its gradient; 0 for
            samples without gradients. 128 in all studies (docs/LOG.md).
        draws: how often labels are drawn for what follows a context; tokens take turns, so that
            neighbours have gradients of different labels.
        seed: of the labels that the gradients are taken for.
        prefix: token ids put before every piece of text.
        twin: the same model in float32, for gradients without the rounding of a 16-bit one.
        dtype: that caches are rounded to; by default they are as the model computes them.
        after: contexts that are not computed again; those behind them are as if they were.

    Raises:
        ValueError: the texts are too short, a context has no room for text, or no draws.
    """
    if draws < 1:
        raise ValueError(f"expected labels to be drawn at least once, got draws={draws}")
    pieces = sample_pieces(
        texts,
        num_tokens=num_tokens,
        count=count,
        continuation_tokens=continuation_tokens,
        prefix=prefix,
    )
    generator = torch.Generator().manual_seed(seed)
    if after.state:
        generator.set_state(torch.frombuffer(bytearray(after.state), dtype=torch.uint8))
    body = num_tokens - len(prefix)
    for piece in pieces[after.count :]:
        tokens = np.array([*prefix, *piece[:body]], dtype=np.int64)
        kv = capture(model, tokens)
        kv = kv if dtype is None else as_dtype(kv, dtype)
        following = piece[body:]
        gradient = _gradient(twin or model, kv, following, draws, generator) if following else None
        state = generator.get_state().numpy().tobytes()
        yield Sample(tokens, kv, gradient, continuation_tokens, state)


def sample_pieces(
    texts: Sequence[Tokens],
    *,
    num_tokens: int,
    count: int,
    continuation_tokens: int = 128,
    prefix: Sequence[int] = (),
) -> list[tuple[int, ...]]:
    """The text of every sample without its prefix, what follows included; asks no model.

    Raises:
        ValueError: as `samples`.
    """
    body = num_tokens - len(prefix)
    if body < 1:
        raise ValueError(f"expected contexts longer than {len(prefix)} tokens, got {num_tokens}")
    size = body + continuation_tokens
    room = [len(token_ids(text)) // size for text in texts]
    if count < 1 or sum(room) < count:
        return spread(texts, num_tokens=size, count=count)
    found = [
        spread([text], num_tokens=size, count=share)
        for text, share in zip(texts, _shares(room, count), strict=True)
        if share
    ]
    rounds = zip_longest(*found)
    return [piece for pieces in rounds for piece in pieces if piece is not None]


def _shares(room: Sequence[int], count: int) -> list[int]:
    """Equal parts of a count, but no more than there is room for anywhere."""
    shares = [0] * len(room)
    while sum(shares) < count:
        least = min(share for share, most in zip(shares, room, strict=True) if share < most)
        for index, most in enumerate(room):
            if shares[index] == least < most and sum(shares) < count:
                shares[index] += 1
    return shares


@torch.enable_grad()
def _gradient(
    model: PreTrainedModel,
    kv: KVCache,
    following: Sequence[int],
    draws: int,
    generator: torch.Generator,
) -> KVCache:
    """Gradients of the log-probability of drawn labels; zeros where the model does not look.

    Token t has those of the labels that are drawn in turn t mod `draws`.
    """
    planes = [plane.detach().float().requires_grad_() for plane in kv.planes()]
    read = [plane.to(model.dtype) for plane in planes]
    cache = to_cache(KVCache(tuple(read[0::2]), tuple(read[1::2]), kv.num_tokens), model)
    ids = torch.tensor([tuple(following)], device=input_device(model))
    gradients = [torch.zeros_like(plane) for plane in planes]
    with _constant_parameters(model):
        logits = model(input_ids=ids, past_key_values=cache, use_cache=True).logits[0]
        for index, total in enumerate(_drawn(logits, draws, generator)):
            found = torch.autograd.grad(
                total, planes, allow_unused=True, retain_graph=index + 1 < draws
            )
            for gradient, own in zip(gradients, found, strict=True):
                if own is not None:
                    gradient[:, index::draws] = own[:, index::draws]
    return KVCache(tuple(gradients[0::2]), tuple(gradients[1::2]), kv.num_tokens)


def _drawn(logits: torch.Tensor, draws: int, generator: torch.Generator) -> torch.Tensor:
    """Summed log-probability of one label a row, drawn from that row of logits; of each turn."""
    chances = log_softmax(logits.float(), dim=-1)
    odds = chances.detach().exp().cpu()
    drawn = torch.multinomial(odds, draws, replacement=True, generator=generator)
    return chances.gather(1, drawn.to(chances.device)).sum(dim=0)


@contextmanager
def _constant_parameters(model: PreTrainedModel) -> Iterator[None]:
    """No gradients of weights within; afterwards as before."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


@torch.no_grad()
def token_features(
    model: PreTrainedModel,
    *,
    prefix: Sequence[int] = (),
    max_features: int = 1024,
    batch_tokens: int = 1024,
    frequent: Tokens = (),
    most_tokens: int = MOST_TOKENS,
    progress: Progress = silent,
) -> np.ndarray:
    """What a text tells about a token by the token alone.

    That is its input embedding, scaled to RMS 1, and the keys (un-rotated) and values that the
    model gives it right after the prefix; every column scaled to RMS 1 over the vocabulary. More
    than `max_features` columns are projected at random, by a fixed seed, so that every column is
    heard about equally loud.

    Of a larger vocabulary than `most_tokens` the model is asked only for so many: those that are
    named, then those with the lowest ids, which tokenizers give to the most frequent pieces. What
    the others would get is predicted from their embeddings, by ridge regression on those.

    Args:
        model: a causal language model, in eval mode.
        prefix: token ids that every context begins with.
        max_features: the most columns. The shipped model has 1,024 and takes 0.224 bits at a KL of
            0.003; projected to 512 and 256 it takes 0.230 and 0.254 (docs/LOG.md, 2026-11-29).
        batch_tokens: tokens of one forward pass; bounds memory. Arbitrary: 256 to 8,192 do.
        frequent: tokens that the model is asked for first, repetitions allowed.
        most_tokens: for so many tokens at most.
        progress: told when it begins, and after every pass.

    Returns:
        float32 (vocabulary, features); the vocabulary is the rows of the input embedding.
    """
    batch = max(1, batch_tokens)
    vocabulary = torch.arange(model.get_input_embeddings().weight.shape[0])
    asked = _asked(len(vocabulary), token_ids(frequent), most_tokens)
    pieces = torch.split(asked, batch)
    progress(Status(_PHASE, 0, len(pieces)))
    turns = rotations(rope_map(model), len(prefix), len(prefix) + 1)
    alone = partial(_alone, model, prefix=tuple(prefix), turns=turns)
    generator = torch.Generator().manual_seed(_PROJECTION_SEED)
    few = vocabulary[torch.randperm(len(vocabulary), generator=generator)[:_HEARD]]
    heard = torch.cat([alone(ids) for ids in torch.split(few, batch)])
    told = _told(pieces, progress)
    if heard.shape[1] > max_features:
        mixing = torch.randn(heard.shape[1], max_features, generator=generator)
        mixing /= _rms(heard, dim=0)[0, :, None]
        features = torch.cat([alone(ids) @ mixing for ids in told])
    else:
        features = torch.cat([alone(ids) for ids in told])
    if len(asked) < len(vocabulary):
        features = _for_all(features, asked, _embeddings(model, vocabulary))
    found: np.ndarray = (features / _rms(features, dim=0)).numpy()
    return found


def _asked(vocabulary: int, frequent: Sequence[int], most: int) -> torch.Tensor:
    """Ids int64, ascending: of so many tokens at most, those named before those of low ids."""
    if vocabulary <= most:
        return torch.arange(vocabulary)
    first = torch.tensor(sorted(set(frequent))[:most], dtype=torch.int64)
    is_first = torch.zeros(vocabulary, dtype=torch.bool)
    is_first[first] = True
    others = torch.arange(vocabulary)[~is_first][: most - len(first)]
    return torch.cat([first, others]).sort().values


def _for_all(features: torch.Tensor, asked: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
    """Features (vocabulary, features): those of the tokens asked for, and a guess of the others'.

    Args:
        features: float32 (asked, features).
        asked: int64, their ids.
        embeddings: float32 (vocabulary, width).
    """
    inputs = torch.cat([embeddings, torch.ones(len(embeddings), 1)], dim=1)
    known = inputs[asked].double()
    gram = known.T @ known
    gram.diagonal().add_(_RIDGE * float(gram.diagonal().mean()))
    found: torch.Tensor = inputs @ torch.linalg.solve(gram, known.T @ features.double()).float()
    found[asked] = features
    return found


def _told(pieces: Sequence[torch.Tensor], progress: Progress) -> Iterator[torch.Tensor]:
    """The pieces, each told once the next is asked for."""
    for done, piece in enumerate(pieces, start=1):
        yield piece
        progress(Status(_PHASE, done, len(pieces)))


def _alone(
    model: PreTrainedModel,
    ids: torch.Tensor,
    *,
    prefix: tuple[int, ...],
    turns: Sequence[Rotation | None],
) -> torch.Tensor:
    """Float32 (ids, width): embeddings of tokens beside what each gets right after the prefix."""
    cache, device = new_cache(model), input_device(model)
    # Without the head: nobody asks what comes next.
    read_on = partial(plain_model(model).base_model, past_key_values=cache, use_cache=True)
    if prefix:
        read_on(input_ids=torch.tensor([prefix], device=device))
        cache.batch_repeat_interleave(len(ids))
    read_on(input_ids=ids[:, None].to(device))
    columns = [_embeddings(model, ids)]
    planes = [plane for layer in token_layers(cache) for plane in (layer.keys, layer.values)]
    for plane, turned in zip(planes, turns, strict=True):
        rows = plane[:, :, -1].float().cpu()
        if turned is not None:
            turn(rows, turned, inverse=True)
        columns.append(rows.flatten(1))
    return torch.cat(columns, dim=1)


def _embeddings(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Float32 (ids, width), scaled to RMS 1."""
    found = model.get_input_embeddings()(ids.to(input_device(model))).float().cpu()
    scaled: torch.Tensor = found / _rms(found, dim=1)
    return scaled


def _rms(rows: torch.Tensor, *, dim: int) -> torch.Tensor:
    return rows.square().mean(dim=dim, keepdim=True).sqrt().clamp_min(_TINY)
