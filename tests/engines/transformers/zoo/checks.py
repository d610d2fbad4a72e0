"""What a context of a model has to survive: saved, loaded, read on, in every way that is offered.

Each check compares with the model's own cache of the same tokens and returns how far off the
logits are, relative to the largest of them.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from transformers import Cache, PreTrainedModel
from transformers.utils import ModelOutput

from cachegen.bitstream.manifest import Manifest
from cachegen.codec.levels import LOSSLESS
from cachegen.engines.transformers import LoadedContext, load_context, save_context
from cachegen.engines.transformers.cache import capture, to_cache
from cachegen.engines.transformers.identity.fingerprint import fingerprint
from cachegen.engines.transformers.model import accepts
from cachegen.kvcache import KVCache
from cachegen.store import Store, open_store
from tests.engines.transformers.zoo.building import build, reopen
from tests.engines.transformers.zoo.sizes import VOCABULARY

STORED, CHUNK, SHORTER, LONGER, NEW = 256, 64, 150, 272, 8
ROUNDING = 1e-3
_FIRST_TOKEN = 3
_GENERATION = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


@dataclass(frozen=True, slots=True)
class Saved:
    """A model, a text, and where the context that begins it is stored.

    `remarks` collects what the checks find that is not ours.
    """

    name: str
    model: PreTrainedModel
    text: torch.Tensor
    store: Store
    manifest: Manifest
    remarks: list[str] = field(default_factory=list)


def text() -> torch.Tensor:
    """A random text, longer than what is stored of it."""
    generator = torch.Generator().manual_seed(5)
    return torch.randint(_FIRST_TOKEN, VOCABULARY, (LONGER,), generator=generator)


def saved(name: str, model: PreTrainedModel, store: Store) -> Saved:
    """Save the context that the checks load."""
    tokens = text()
    manifest = save_context(model, tokens[:STORED], store=store, chunk_tokens=CHUNK)
    return Saved(name, model, tokens, store, manifest)


def lossless(case: Saved) -> float:
    """Continuing from what is loaded against continuing from the model's own cache."""
    loaded = _loaded(case, case.text)
    assert loaded.num_tokens == STORED and loaded.result.exact, "not all that is stored was loaded"
    expected = read_on(case.model, own_cache(case.model, case.text[:STORED]), case.text[STORED:])
    assert expected.isfinite().all(), "the model's own logits are not finite"
    emptied = to_cache(_emptied(loaded.result.kv), case.model)
    got = read_on(case.model, loaded.cache, case.text[STORED:])
    assert not torch.equal(read_on(case.model, emptied, case.text[STORED:]), expected), (
        "the model does not read its cache"
    )
    return _difference(got, expected)


def shorter(case: Saved) -> float:
    """A text that ends inside a stored chunk, against one pass over it."""
    loaded = _loaded(case, case.text[:SHORTER])
    start = loaded.num_tokens
    assert start >= SHORTER // CHUNK * CHUNK, "less was loaded than whole chunks hold"
    got = read_on(case.model, loaded.cache, case.text[start:SHORTER])
    off = _difference(got, read_on(case.model, None, case.text[:SHORTER])[:, start:])
    if off <= ROUNDING:
        return off
    own = own_cache(case.model, case.text[:start])
    from_own = _difference(got, read_on(case.model, own, case.text[start:SHORTER]))
    if from_own <= ROUNDING:
        case.remarks.append("the model's own cache goes on otherwise than one pass")
    return from_own


def longer(case: Saved) -> float:
    """Greedy generation from what is loaded: 0 where the tokens are the same, else 1.

    Where `generate` cannot go on from the model's own cache either, tokens are chosen by hand.
    """
    own = own_cache(case.model, case.text[:STORED])
    expected = _generated(case, None)
    if _generated(case, copy.deepcopy(own)) != expected or expected is None:
        case.remarks.append("`generate` does not go on from the model's own cache")
        return float(_by_hand(case, _loaded(case, case.text).cache) != _by_hand(case, own))
    return float(_generated(case, _loaded(case, case.text).cache) != expected)


def recomputed(case: Saved) -> float:
    """The last chunk is lost, so that the model computes it after those that were loaded."""
    for stored in case.manifest.chunks[-1].objects:
        case.store.delete(stored.key)
    loaded = _loaded(case, case.text)
    assert [chunk.level for chunk in loaded.result.chunks][-1] == "text", "nothing was recomputed"
    own = own_cache(case.model, case.text[:STORED])
    rest = case.text[STORED:]
    return _difference(read_on(case.model, loaded.cache, rest), read_on(case.model, own, rest))


def pieces(case: Saved) -> float:
    """A context prefilled in pieces."""
    kv = capture(case.model, case.text[:STORED], prefill_tokens=50)
    own = own_cache(case.model, case.text[:STORED])
    rest = case.text[STORED:]
    got = read_on(case.model, to_cache(kv, case.model), rest)
    return _difference(got, read_on(case.model, own, rest))


def identity(case: Saved) -> float:
    """Running changes no fingerprint, files keep it, another seed has another."""
    fresh = fingerprint(build(case.name))
    assert fingerprint(case.model) == fresh, "running the model changes its fingerprint"
    assert fingerprint(build(case.name, seed=1)) != fresh, "another seed has the same fingerprint"
    with tempfile.TemporaryDirectory() as folder:
        case.model.save_pretrained(folder)
        first = reopen(case.model, folder)
        assert fingerprint(first) == fresh, "saved and opened again, its fingerprint is another"
        read_on(first, None, case.text)
        assert fingerprint(first) == fresh, "running the opened model changes its fingerprint"
    return 0.0


CHECKS: dict[str, Callable[[Saved], float]] = {
    "lossless": lossless,
    "shorter": shorter,
    "longer": longer,
    "pieces": pieces,
    "recomputed": recomputed,
    "fingerprint": identity,
}


def read_on(model: PreTrainedModel, cache: Cache | None, tokens: torch.Tensor) -> torch.Tensor:
    """The logits of tokens that follow a cache."""
    return run(model, cache, tokens).logits


def own_cache(model: PreTrainedModel, tokens: torch.Tensor) -> Cache:
    """The cache that the model itself makes in one pass."""
    return run(model, None, tokens).past_key_values


@torch.no_grad()
def run(model: PreTrainedModel, cache: Cache | None, tokens: torch.Tensor) -> ModelOutput:
    """One pass, with the mask that `generate` gives."""
    before = cache.get_seq_length() if cache is not None else 0
    seen = torch.ones((1, before + len(tokens)), dtype=torch.long)
    mask = {"attention_mask": seen} if accepts(model, "attention_mask") else {}
    return model(input_ids=tokens[None], past_key_values=cache, use_cache=True, **mask)


def _generated(case: Saved, cache: Cache | None) -> list[int] | None:
    """The tokens that `generate` finds; None where it fails."""
    ids = case.text[None]
    options = {"attention_mask": torch.ones_like(ids), **_GENERATION}
    try:
        return case.model.generate(ids, past_key_values=cache, **options)[0].tolist()
    except (IndexError, RuntimeError, TypeError):
        return None


def _by_hand(case: Saved, cache: Cache) -> list[int]:
    """The greedy continuation of the text, without `generate`."""
    ids, found = case.text[STORED:], []
    for _ in range(NEW):
        ids = read_on(case.model, cache, ids)[0, -1:].argmax(dim=-1)
        found.append(int(ids))
    return found


def _loaded(case: Saved, tokens: torch.Tensor) -> LoadedContext:
    return load_context(case.model, tokens, store=case.store, level=LOSSLESS)


def _emptied(kv: KVCache) -> KVCache:
    keys, values = (tuple(map(torch.zeros_like, planes)) for planes in (kv.keys, kv.values))
    return KVCache(keys, values, kv.num_tokens)


def _difference(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


def memory() -> Store:
    """An empty store."""
    return open_store("memory:")
