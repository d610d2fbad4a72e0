"""What a coder does to one case: its bytes, the model's predictions, and its answer.

Quality is measured in float32 arithmetic: contexts are prefilled in the model's own dtype (in
float32 and rounded to it, where this machine computes that slowly), coded, and widened, and the
model goes on in float32. What is read behind a context is the question and
the answer that the model itself gives from the uncompressed cache, or the text that really follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import kl_div, log_softmax

from cachegen.engines.transformers.arithmetic import Prefiller
from cachegen.engines.transformers.cache import to_cache
from cachegen.engines.transformers.model import input_device
from cachegen.engines.transformers.quality import as_dtype
from cachegen.evaluation.case import Case
from cachegen.evaluation.coder import Coder
from cachegen.evaluation.scores import SCORES
from cachegen.kvcache import KVCache


@dataclass(frozen=True, slots=True)
class Outcome:
    """A coder on a case.

    Attributes:
        num_bytes: all that has to be stored.
        num_values: of the whole context's cache, whatever was dropped.
        kl: mean Kullback-Leibler divergence to the uncompressed run, nats per predicted token.
        lost: log-likelihood of the following text that was lost, nats, over all its tokens; None
            where something is asked.
        top1: share of tokens whose most likely successor is unchanged.
        num_tokens: predicted.
        score: of the answer; None where nothing is asked.
        score_uncompressed: of the answer from the uncompressed cache.
    """

    num_bytes: int
    num_values: int
    kl: float
    lost: float | None
    top1: float
    num_tokens: int
    score: float | None
    score_uncompressed: float | None


@dataclass(frozen=True, slots=True)
class Models:
    """A model to evaluate.

    Attributes:
        writer: in its own dtype, which caches have.
        reader: in float32, which goes on; perhaps the same.
        tokenizer: of both.
        prefill: computes caches of contexts.
    """

    writer: Any
    reader: Any
    tokenizer: Any
    prefill: Prefiller

    def text(self, ids: Sequence[int]) -> str:
        """An answer as it is scored."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end an answer."""
        named = self.reader.generation_config.eos_token_id
        return frozenset([named] if isinstance(named, int) else named or ())


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A case whose uncompressed run is done.

    Attributes:
        case: as it was given.
        kv: the context's cache, in the model's own dtype.
        read: tokens that are read behind the context.
        answer: of these, the answer of the uncompressed run.
        logits: float32 (tokens read, vocabulary) of the uncompressed run.
        score: of the answer; None where nothing is asked.
    """

    case: Case
    kv: KVCache
    read: tuple[int, ...]
    answer: tuple[int, ...]
    logits: torch.Tensor
    score: float | None


def prepare(models: Models, case: Case) -> Prepared:
    """Prefill a case, and let the model go on without any coding."""
    kv = models.prefill(case.context)
    if case.following:
        read = case.following
        return Prepared(case, kv, read, (), _read(models, kv, read, len(case.context)), None)
    position, most = len(case.context), case.most_new_tokens
    answer = _answered(models, kv, case.question, position=position, most=most)
    read = (*case.question, *answer)
    score = SCORES[case.score](models.text(answer), case.answers)
    return Prepared(case, kv, read, answer, _read(models, kv, read, position), score)


def measure(models: Models, prepared: Prepared, coder: Coder) -> Outcome:
    """Code the context, go on from what comes back, and compare."""
    case = prepared.case
    data = coder.encode(prepared.kv, case.context)
    coded = coder.decode(data, case.context)
    position = coded.num_tokens if coder.is_shorter_text else len(case.context)
    logits = _read(models, coded, prepared.read, position)
    kl, lost, agreed = _compared(prepared, logits)
    score = None
    if prepared.score is not None:
        answer = _answer(models, prepared, coded, logits, position=position)
        score = SCORES[case.score](models.text(answer), case.answers)
    return Outcome(
        num_bytes=len(data),
        num_values=prepared.kv.num_values,
        kl=float(kl.mean()),
        lost=float(lost.sum()) if case.following else None,
        top1=float(agreed.double().mean()),
        num_tokens=len(kl),
        score=score,
        score_uncompressed=prepared.score,
    )


def _compared(
    prepared: Prepared, logits: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """KL, likelihood lost, and whether top-1 agrees: of every token that is predicted."""
    before, after = (log_softmax(one[:-1], dim=-1) for one in (prepared.logits, logits))
    kl = kl_div(after, before, reduction="none", log_target=True).sum(dim=-1, dtype=torch.float64)
    targets = torch.tensor(prepared.read[1:], device=before.device)[:, None]
    lost = (before - after).gather(1, targets)[:, 0].double()
    return kl, lost, after.argmax(-1) == before.argmax(-1)


def _answer(
    models: Models, prepared: Prepared, kv: KVCache, logits: torch.Tensor, *, position: int
) -> Sequence[int]:
    """The greedy answer from a coded cache.

    As far as it is that of the uncompressed run it is read off the predictions of that.
    """
    question, same = prepared.case.question, prepared.answer
    chosen = logits[len(question) - 1 : -1].argmax(dim=-1).tolist()
    pairs = list(zip(chosen, same, strict=True))
    differs = next((i for i, (one, other) in enumerate(pairs) if one != other), None)
    if differs is None:
        return same
    begun = (*same[:differs], chosen[differs])
    if chosen[differs] in models.ends:
        return begun
    left = prepared.case.most_new_tokens - len(begun)
    more = _answered(models, kv, (*question, *begun), position=position, most=left)
    return (*begun, *more)


@torch.no_grad()
def _answered(
    models: Models, kv: KVCache, question: Sequence[int], *, position: int, most: int
) -> tuple[int, ...]:
    """The greedy continuation of a question, up to a token that ends it."""
    cache = to_cache(as_dtype(kv, models.reader.dtype), models.reader)
    ids, found = tuple(question), list[int]()
    while len(found) < most:
        logits = _forward(models.reader, ids, cache, position)
        position += len(ids)
        ids = (int(logits[-1].argmax()),)
        found += ids
        if ids[0] in models.ends:
            break
    return tuple(found)


@torch.no_grad()
def _read(models: Models, kv: KVCache, ids: Sequence[int], position: int) -> torch.Tensor:
    """Float32 logits (tokens, vocabulary) of tokens read behind a cache."""
    cache = to_cache(as_dtype(kv, models.reader.dtype), models.reader)
    return _forward(models.reader, ids, cache, position).float()


def _forward(model: Any, ids: Sequence[int], cache: Any, position: int) -> torch.Tensor:
    """Logits (tokens, vocabulary); positions are said where tokens before were dropped."""
    device = input_device(model)
    dropped = {}
    if cache.get_seq_length() != position:
        places = torch.arange(position, position + len(ids), device=device)
        dropped = {"position_ids": places[None]}
    inputs = torch.tensor([tuple(ids)], device=device)
    logits: torch.Tensor = model(
        input_ids=inputs, past_key_values=cache, use_cache=True, **dropped
    ).logits[0]
    return logits
