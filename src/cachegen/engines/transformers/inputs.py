"""What a text is made of: token ids, the mask that belongs to them, and tokens that stand for
something else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from cachegen.engines.transformers.model import (
    accepts,
    numbers_by_padding,
    plain_model,
    vocabulary_size,
)

Tokens = Sequence[int] | np.ndarray | torch.Tensor | Mapping[str, Any]

_STANDS_FOR_INPUT = re.compile(
    r"(image|img|video|audio|speech|pixel|vision)s?_(token_(id|index)|patch_id)$"
)
# Parts of models that read something else than tokens, at positions of their own.
_TOWERS = ("vision", "visual", "image", "audio")


def token_ids(tokens: Tokens, attention_mask: Any = None) -> tuple[int, ...]:
    """Tokens of one context as integers.

    Args:
        tokens: a sequence or an array (tokens,) or (1, tokens), or what a tokenizer or a chat
            template returns: an object with ``input_ids`` and, maybe, ``attention_mask``.
        attention_mask: as many ones; all ones by default.

    Raises:
        ValueError: text, fractional or negative ids, more than one row, or a mask with zeros.
    """
    if isinstance(tokens, Mapping):
        if "input_ids" not in tokens:
            raise ValueError(f"expected token ids or `input_ids`, got {sorted(tokens)}")
        if attention_mask is None:
            attention_mask = tokens.get("attention_mask")
        tokens = tokens["input_ids"]
    ids = _one_row(_integers(tokens))
    if attention_mask is not None:
        _check_mask(attention_mask, len(ids))
    return tuple(ids.tolist())


def _integers(tokens: Any) -> np.ndarray:
    """The ids, as they come, of a kind that holds whole numbers only."""
    if isinstance(tokens, str | bytes):
        raise ValueError(f"expected token ids, got text ({tokens[:20]!r}): tokenize it first")
    if isinstance(tokens, torch.Tensor):
        tokens = tokens.detach().cpu()
        # NumPy knows no bfloat16 to name in the refusal.
        tokens = tokens.float() if tokens.is_floating_point() else tokens
    try:
        found = np.asarray(tokens)
    except ValueError as error:
        expected = "expected the token ids of one context, whole numbers"
        raise ValueError(f"{expected}, got rows of unequal length, or other things") from error
    if not found.size:
        return found.astype(np.int64)
    if found.dtype.kind in "US":
        text = next((item for item in tokens if isinstance(item, str)), found.flat[0].item())
        raise ValueError(f"expected token ids, got text ({text!r}): tokenize it first")
    if found.dtype.kind not in "iu":
        values = found.ravel().tolist()
        odd = next((value for value in values if _is_no_id(value)), values[0])
        raise ValueError(f"expected token ids, whole numbers, got {found.dtype} ({odd!r})")
    if found.min() < 0:
        raise ValueError(f"expected token ids of at least 0, got {found.min()}")
    return found


def _is_no_id(value: Any) -> bool:
    """Whether it is what makes an array of ids something else."""
    return isinstance(value, bool) or not isinstance(value, int | float) or value % 1 != 0


def _one_row(ids: np.ndarray) -> np.ndarray:
    if ids.ndim == 2 and ids.shape[0] == 1:
        ids = ids[0]
    if ids.ndim != 1:
        raise ValueError(f"expected the tokens of one context, (tokens,), got {ids.shape}")
    return ids


def _check_mask(mask: Any, num_tokens: int) -> None:
    """Ones only: positions and values of padded texts differ from those of plain ones."""
    found = torch.as_tensor(mask)
    if found.ndim == 2 and found.shape[0] == 1:
        found = found[0]
    if tuple(found.shape) != (num_tokens,):
        raise ValueError(f"expected a mask of {num_tokens} ones, got {tuple(found.shape)}")
    hidden = (found != 1).nonzero()[:, 0].tolist()
    if hidden:
        raise ValueError(
            f"expected an attention mask of ones, got {len(hidden)} of {num_tokens} tokens hidden, "
            f"the first at {hidden[0]}: a context is stored without padding, so leave hidden "
            "tokens out"
        )


def check_vocabulary(ids: Sequence[int], model: PreTrainedModel) -> None:
    """Refuse ids that the model has no embedding for, before anything is computed.

    Raises:
        ValueError: there is such an id.
    """
    known = vocabulary_size(model)
    if not ids or max(ids) < known:
        return
    largest = max({*ids} - placeholders(model), default=0)
    if largest >= known:
        raise ValueError(f"expected token ids below {known}, the model's vocabulary, got {largest}")


def check_positions(model: PreTrainedModel, ids: Sequence[int], *, start: int = 0) -> None:
    """Refuse texts that a model's positions are not made for, before anything is computed.

    Raises:
        ValueError: more tokens than learned positions, or pad tokens where these take none.
    """
    for name, module in plain_model(model).named_modules():
        if numbers_by_padding(module) and module.padding_idx in ids:
            raise ValueError(
                f"token {module.padding_idx} pads texts of this model, and takes no position in "
                f"{name}: expected a context without it"
            )
        room = _learned_positions(name, module)
        if room is not None and start + len(ids) > room:
            raise ValueError(
                f"expected at most {room} tokens, the positions in {name}, got {start + len(ids)}"
            )


def _learned_positions(name: str, module: torch.nn.Module) -> int | None:
    """How many tokens a table of positions is for; None for anything else."""
    last = name.rpartition(".")[2]
    if any(tower in name for tower in _TOWERS):
        return None
    if not isinstance(module, torch.nn.Embedding) or not ("position" in last or last == "wpe"):
        return None
    first = getattr(module, "offset", None)
    if first is None:
        first = 0 if module.padding_idx is None else module.padding_idx + 1
    return module.num_embeddings - int(first)


def check_encoding(
    model: PreTrainedModel,
    tokens: Any,
    *,
    extra: bytes,
    inputs: Mapping[str, Any] | None = None,
    is_saved: bool = False,
) -> None:
    """Refuse an encoding that holds more than tokens, where nothing says what it is.

    Raises:
        ValueError: it has an entry that the model takes, and that is neither zero, nor named.
    """
    entries = tokens.items() if isinstance(tokens, Mapping) else ()
    for name, value in entries:
        is_text = name in ("input_ids", "attention_mask") or name in (inputs or ())
        if is_text or (extra and not is_saved) or not accepts(model, name):
            continue
        if value is not None and bool(torch.as_tensor(value).any()):
            raise ValueError(
                f"expected tokens, got {name!r} beside them, which changes keys and values: "
                "expected `extra`, a digest of it, on saving and loading, and `inputs` on saving"
            )


def placeholders(model: PreTrainedModel) -> frozenset[int]:
    """Ids of tokens in whose place images, audio or video are put: equal tokens, other KV."""
    return frozenset(_placeholders(plain_model(model).config))


def _placeholders(config: PreTrainedConfig) -> Iterator[int]:
    for name, value in _named(config):
        if isinstance(value, PreTrainedConfig):
            yield from _placeholders(value)
        elif _STANDS_FOR_INPUT.search(name) and isinstance(value, int):
            yield value


def _named(config: PreTrainedConfig) -> Iterator[tuple[str, Any]]:
    """What a configuration holds, under the names that transformers gives it, too."""
    yield from vars(config).items()
    for name, own in config.attribute_map.items():
        yield name, getattr(config, own, None)
