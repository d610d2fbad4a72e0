"""Encodes the cache of a context into the bytes of its objects."""

from __future__ import annotations

from dataclasses import dataclass, field

from cachegen.bitstream.chunk import encode, encode_kinds
from cachegen.bitstream.manifest import ALL
from cachegen.codec.encoded import Layers
from cachegen.codec.profile import Profile
from cachegen.codec.rope import RopeMap
from cachegen.contexts.chunking import PlannedObject
from cachegen.kvcache import KVCache


@dataclass(frozen=True, slots=True, eq=False)
class Encoder:
    """Encodes what one call of `save` stores; `tokens` are the whole context's.

    All kinds of a chunk at a level are encoded together, on the first request for one of them.
    """

    kv: KVCache
    tokens: list[int]
    profile: Profile | None
    rope: RopeMap | None
    fingerprint: bytes
    kinds: dict[str, Layers]
    _last: dict[tuple[int, str], dict[str, bytes]] = field(default_factory=dict)

    def tokens_of(self, item: PlannedObject) -> list[int]:
        """Tokens of the object's chunk."""
        return self.tokens[item.chunk.start : item.chunk.stop]

    def encode(self, item: PlannedObject) -> bytes:
        """The bytes of an object."""
        chunk = item.chunk
        kv = self.kv.slice(chunk.start - self.kv.start, chunk.stop - self.kv.start)
        tokens = self.tokens_of(item)
        if item.layers == ALL:
            return encode(
                kv,
                tokens=tokens,
                profile=self.profile,
                level=item.level,
                rope=self.rope,
                fingerprint=self.fingerprint,
                chunk_id=chunk.chunk_id,
            )
        if (chunk.start, item.level) not in self._last:
            coded = encode_kinds(
                kv,
                tuple(self.kinds.values()),
                tokens=tokens,
                profile=self.profile,
                level=item.level,
                rope=self.rope,
                fingerprint=self.fingerprint,
                chunk_id=chunk.chunk_id,
            )
            self._last.clear()
            self._last[chunk.start, item.level] = dict(zip(self.kinds, coded, strict=True))
        return self._last[chunk.start, item.level][item.layers]
