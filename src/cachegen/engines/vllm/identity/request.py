"""What of a request changes the keys and values of equal tokens: adapter, media, tenant."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from cachegen.engines.vllm.identity.digests import digest_of, files_digest
from cachegen.errors import UnsupportedCache

# Adapters that a server holds at once. Arbitrary: 100 to 10,000 do; 32 bytes and some names each.
_MOST_ADAPTERS = 1024
_ADAPTER_WEIGHTS = "adapter_model"


@dataclass(frozen=True, slots=True)
class RequestIdentity:
    """What keeps a request's contexts apart from others' of equal tokens.

    Attributes:
        salt: the tenant's; nothing for requests that name none, which meet only their like.
        extra: adapter and media; nothing for tokens of the model alone.
    """

    salt: bytes = b""
    extra: bytes = b""


def request_identity(request: Any) -> RequestIdentity:
    """Of a ``vllm.v1.request.Request``.

    Adapters count by the bytes of their files, as they are now, not by their names. Media count by
    the hashes that the engine gives them, and so do those that clients name themselves
    (`multi_modal_uuids`): there the names must be as unique as the media.

    Raises:
        UnsupportedCache: its prompt is not made of tokens, or its adapter's files are not here.
    """
    if request.prompt_token_ids is None or getattr(request, "prompt_embeds", None) is not None:
        raise UnsupportedCache("expected a prompt of tokens, got embeddings")
    parts: dict[str, Any] = {}
    if request.lora_request is not None:
        parts["adapter"] = _adapter(request.lora_request).hex()
    if media := list(_media(request)):
        parts["media"] = media
    return RequestIdentity((request.cache_salt or "").encode(), digest_of(parts))


def _media(request: Any) -> Iterator[list[Any]]:
    for feature in request.mm_features or ():
        place = feature.mm_position
        yield [feature.modality, feature.identifier, place.offset, place.length]


def _adapter(lora: Any) -> bytes:
    try:
        with os.scandir(lora.lora_path) as folder:
            found = sorted((entry.name, entry.stat()) for entry in folder if _is_part(entry.name))
        if not any(name.startswith(_ADAPTER_WEIGHTS) for name, _ in found):
            raise OSError(f"there are no weights of an adapter in {lora.lora_path}")
        states = tuple((name, s.st_size, s.st_mtime_ns, s.st_ino) for name, s in found)
        return _read(Path(lora.lora_path), states)
    except OSError as error:
        raise UnsupportedCache(
            f"adapter {lora.lora_name!r}: expected its files on this machine: {error}"
        ) from error


def _is_part(name: str) -> bool:
    return name.startswith((_ADAPTER_WEIGHTS, "adapter_config.json", "new_embeddings"))


@lru_cache(maxsize=_MOST_ADAPTERS)
def _read(folder: Path, states: tuple[tuple[str, int, int, int], ...]) -> bytes:
    return files_digest(folder / name for name, *_ in states)
