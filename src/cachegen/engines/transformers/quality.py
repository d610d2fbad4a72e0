"""What calibration asks of a model: how well continuations and answers survive coding."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import stdev
from typing import TypeVar

import torch
from torch.nn.functional import kl_div, log_softmax
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cachegen.codec.calibration.progress import Progress, Status, silent
from cachegen.codec.calibration.sample import RoundTrip
from cachegen.codec.levels import Quality
from cachegen.engines.transformers.cache import capture
from cachegen.engines.transformers.layers import new_cache, token_layers
from cachegen.engines.transformers.model import input_device
from cachegen.engines.transformers.probe import support_of
from cachegen.engines.transformers.tasks import Task, answers_right
from cachegen.engines.transformers.text_windows import Window, evenly
from cachegen.kvcache import KVCache

REFERENCE = "reference runs"
# Share of the cached values that `noise_floor` changes. Arbitrary: by 10^-4, 10^-3 and 10^-2 of
# them the shipped model differs from itself by 8, 7 and 14 * 10^-6 (docs/LOG.md, 2026-11-29, tuned
# constants).
_CHANGED = 1e-3
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """Windows of one domain that run together.

    Attributes:
        windows: all of the same lengths.
        caches: of their contexts, uncompressed.
        logits: (windows, tokens, vocabulary) of the uncompressed run.
    """

    windows: tuple[Window, ...]
    caches: tuple[KVCache, ...]
    logits: torch.Tensor


def evaluator(
    model: PreTrainedModel,
    windows: Mapping[str, Sequence[Window]],
    tasks: Sequence[Task] = (),
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    batch_windows: int = 8,
    prefill: Callable[[Sequence[int]], KVCache] | None = None,
    progress: Progress = silent,
) -> Evaluator:
    """Prefill the contexts once; what is returned measures one lossy round trip after another.

    Args:
        model: the model that continues the contexts.
        windows: by domain, pieces of held-out text.
        tasks: questions of domains that have windows too.
        tokenizer: what the answers of the tasks are written with.
        batch_windows: windows of the same lengths that are continued together; bounds memory.
            Arbitrary: 4 to 32 do.
        prefill: computes their caches, as `Prefiller` does, which are converted to the model's
            dtype; by default the model does.
        progress: told how many windows and tasks are prefilled.

    Raises:
        ValueError: a domain without windows, tasks without a tokenizer, or predictions that are
            NaN or infinite without any coding.
    """
    asked = {task.domain for task in tasks}
    if not windows or not all(windows.values()) or not asked <= windows.keys():
        raise ValueError("expected at least one window for every domain, of tasks too")
    if tasks and tokenizer is None:
        raise ValueError("expected the tokenizer that the answers of the tasks are written with")
    tell = _Counter(sum(map(len, windows.values())) + len(tasks), progress)
    batches = {
        name: [
            _prepare(model, prefill or partial(capture, model), batch, name, tell)
            for batch in _batches(found, batch_windows)
        ]
        for name, found in windows.items()
    }
    exams = {name: _exam(model, tasks, name, tokenizer, tell) for name in windows if name in asked}
    return Evaluator(model, batches, exams)


@dataclass(frozen=True, slots=True, eq=False)
class Evaluator:
    """Contexts that are prefilled, what the model says behind them, and questions about them.

    Called with a round trip it codes every context, continues from the result along the given
    tokens and compares the predictions with those of the uncompressed run; then it answers the
    tasks: the quality by domain.
    """

    model: PreTrainedModel
    batches: Mapping[str, Sequence[_Batch]]
    exams: Mapping[str, _Exam]

    def __call__(self, roundtrip: RoundTrip) -> dict[str, Quality]:
        """Measure coding by this."""
        found = {name: _quality(self.model, own, roundtrip) for name, own in self.batches.items()}
        for name, exam in self.exams.items():
            found[name] = _with_answers(found[name], self.model, exam, roundtrip)
        return found

    def contexts(
        self, *, dtype: torch.dtype, most: int
    ) -> dict[str, list[tuple[Sequence[int], KVCache]]]:
        """By domain some of the contexts, evenly spread: their tokens and caches.

        Args:
            dtype: of the caches.
            most: contexts of a domain.
        """
        found: dict[str, list[tuple[Sequence[int], KVCache]]] = {}
        for name, batches in self.batches.items():
            own = [pair for one in batches for pair in zip(one.windows, one.caches, strict=True)]
            chosen = evenly(own, most)
            found[name] = [(window.context, as_dtype(kv, dtype)) for window, kv in chosen]
        return found


def coded_as(roundtrip: RoundTrip, dtype: torch.dtype) -> RoundTrip:
    """A round trip of caches of another dtype: rounded to this one, coded, and widened again.

    So is quality measured in float32 arithmetic what a cache of 16 bits costs, its rounding too.
    """
    return lambda kv, tokens: as_dtype(roundtrip(as_dtype(kv, dtype), tokens), kv.dtype)


def as_dtype(kv: KVCache, dtype: torch.dtype) -> KVCache:
    """The same cache with values of another dtype."""
    keys, values = (tuple(one.to(dtype) for one in planes) for planes in (kv.keys, kv.values))
    return replace(kv, keys=keys, values=values)


def noise_floor(judge: Evaluator, model: PreTrainedModel, *, most_windows: int = 2) -> float:
    """KL, nats per token, by which a model differs from itself, in its least noisy domain.

    One in a thousand of the cached values is changed in its lowest bit. What codings cost cannot be
    told from this where it is less.

    Args:
        judge: has the contexts, and what follows them.
        model: as it will be used, which has prefilled them.
        most_windows: of each domain. Arbitrary: 1 to 8 do; an order of magnitude is wanted.
    """
    found = [
        _quality(model, [_first(batches[0], model, most_windows)], _with_noise)
        for batches in judge.batches.values()
    ]
    return min(quality.kl for quality in found)


def _first(batch: _Batch, model: PreTrainedModel, most: int) -> _Batch:
    """The first windows of a batch, as another model reads on behind them."""
    windows = batch.windows[:most]
    caches = tuple(as_dtype(kv, model.dtype) for kv in batch.caches[:most])
    return _Batch(windows, caches, _continue(model, caches, windows))


def _with_noise(kv: KVCache, tokens: Sequence[int]) -> KVCache:
    del tokens
    generator = torch.Generator().manual_seed(0)
    words = {1: torch.uint8, 2: torch.int16, 4: torch.int32}

    def changed(plane: torch.Tensor) -> torch.Tensor:
        noisy = plane.clone()
        chosen = torch.rand(plane.shape, generator=generator) < _CHANGED
        noisy.view(words[plane.dtype.itemsize])[chosen.to(plane.device)] ^= 1
        return noisy

    keys, values = (tuple(map(changed, planes)) for planes in (kv.keys, kv.values))
    return replace(kv, keys=keys, values=values)


def _batches(windows: Sequence[Window], most: int) -> Iterator[tuple[Window, ...]]:
    """Windows of the same lengths, at most so many together."""
    same: dict[tuple[int, int], list[Window]] = {}
    for window in windows:
        same.setdefault((len(window.context), len(window.continuation)), []).append(window)
    for found in same.values():
        for first in range(0, len(found), most):
            yield tuple(found[first : first + most])


def _prepare(
    model: PreTrainedModel,
    prefill: Callable[[Sequence[int]], KVCache],
    windows: tuple[Window, ...],
    domain: str,
    tell: _Counter,
) -> _Batch:
    caches, dtypes = [], set()
    for window in tell.each(windows):
        kv = prefill(window.context)
        dtypes.add(str(kv.dtype).removeprefix("torch."))
        caches.append(as_dtype(kv, model.dtype))
    logits = _continue(model, caches, windows)
    if not bool(torch.isfinite(logits.logsumexp(dim=-1)).all()):
        raise ValueError(
            f"expected finite predictions of the texts of {domain!r}, got NaN or infinities "
            f"without any coding; does the model overflow in {dtypes.pop()}?"
        )
    return _Batch(windows, tuple(caches), logits)


@dataclass(slots=True)
class _Counter:
    """Counts what is prefilled and tells it."""

    total: int
    progress: Progress
    done: int = 0

    def each(self, items: Sequence[_Item]) -> Iterator[_Item]:
        """The items, each told once the next is asked for."""
        for item in items:
            yield item
            self.done += 1
            self.progress(Status(REFERENCE, self.done, self.total))


@torch.no_grad()
def _continue(
    model: PreTrainedModel, caches: Sequence[KVCache], windows: Sequence[Window]
) -> torch.Tensor:
    """Logits (windows, tokens, vocabulary) of the continuations read on top of the caches."""
    inputs = torch.tensor([window.continuation[:-1] for window in windows])
    inputs, cache = inputs.to(input_device(model)), new_cache(model)
    devices = support_of(model).layers
    for index, (layer, device) in enumerate(zip(token_layers(cache), devices, strict=True)):
        layer.update(
            torch.stack([kv.keys[index] for kv in caches]).to(device),
            torch.stack([kv.values[index] for kv in caches]).to(device),
        )
    logits: torch.Tensor = model(input_ids=inputs, past_key_values=cache, use_cache=True).logits
    return logits


def _quality(model: PreTrainedModel, batches: Sequence[_Batch], roundtrip: RoundTrip) -> Quality:
    by_window = [one for batch in batches for one in _differences(model, batch, roundtrip)]
    found = torch.cat(by_window, dim=1)
    kl, log_perplexity, agree = found[:3].mean(dim=1).tolist()
    of_answers = found[0][found[3] > 0]
    return Quality(
        kl=kl,
        rel_ppl=_expm1(log_perplexity),
        top1=agree,
        num_tokens=found.shape[1],
        answer_kl=float(of_answers.mean()) if len(of_answers) else None,
        rel_ppl_error=_error_of_mean([float(one[1].mean()) for one in by_window]),
    )


def _error_of_mean(means: Sequence[float]) -> float | None:
    """The standard error of the mean of windows; None where they do not tell."""
    if len(means) < 2 or not all(map(math.isfinite, means)):
        return None
    return stdev(means) / math.sqrt(len(means))


def _expm1(number: float) -> float:
    """Infinite where the standard library's fails: that is one step's quality, not the run's."""
    try:
        return math.expm1(number)
    except OverflowError:
        return math.inf


def _differences(model: PreTrainedModel, batch: _Batch, roundtrip: RoundTrip) -> list[torch.Tensor]:
    """Of every window float64 (4, tokens), as `_compare` has them."""
    pairs = zip(batch.caches, batch.windows, strict=True)
    logits = _continue(model, [roundtrip(kv, w.context) for kv, w in pairs], batch.windows)
    rows = zip(batch.logits, logits, batch.windows, strict=True)
    return [_compare(*row) for row in rows]


def _compare(before: torch.Tensor, after: torch.Tensor, window: Window) -> torch.Tensor:
    """Of logits (tokens, vocabulary) without and with coding: float64 (4, tokens).

    Rows: KL; what the log-likelihood lost; 1 where top-1 agrees; 1 where an answer is predicted.
    """
    before, after = (log_softmax(logits.float(), dim=-1) for logits in (before, after))
    kl = kl_div(after, before, reduction="none", log_target=True).sum(dim=-1, dtype=torch.float64)
    targets = torch.tensor(window.continuation[1:], device=before.device)[:, None]
    lost = (before - after).gather(1, targets)[:, 0]
    agree = after.argmax(-1) == before.argmax(-1)
    marks = torch.tensor(window.answers or [False] * len(kl), device=before.device)
    return torch.stack((kl, lost.double(), agree.double(), marks.double()))


@dataclass(frozen=True, slots=True, eq=False)
class _Exam:
    """Tasks of one domain, the caches of their contexts, and the share answered from these."""

    tasks: tuple[Task, ...]
    caches: tuple[KVCache, ...]
    tokenizer: PreTrainedTokenizerBase
    exact_match: float


def _exam(
    model: PreTrainedModel,
    tasks: Sequence[Task],
    domain: str,
    tokenizer: PreTrainedTokenizerBase,
    tell: _Counter,
) -> _Exam:
    asked = tuple(task for task in tasks if task.domain == domain)
    caches = tuple(capture(model, task.context) for task in tell.each(asked))
    right = answers_right(model, asked, None, tokenizer, caches=caches)
    return _Exam(asked, caches, tokenizer, float(right.mean()))


def _with_answers(
    quality: Quality, model: PreTrainedModel, exam: _Exam, roundtrip: RoundTrip
) -> Quality:
    right = answers_right(model, exam.tasks, roundtrip, exam.tokenizer, caches=exam.caches)
    return replace(
        quality,
        exact_match=float(right.mean()),
        exact_match_uncompressed=exam.exact_match,
        num_answers=len(right),
    )
