"""A model's profile: statistics, levels and tables in one safetensors file.

The SHA-256 of what readers need of it names the profile; chunks coded with it carry that name.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from safetensors.numpy import load, save

from cachegen.codec.levels import EncodingLevel, find_level
from cachegen.codec.memory import kept
from cachegen.codec.model import CodingModel, rope_to_arrays
from cachegen.codec.profile.description import Description, raw_metadata
from cachegen.codec.rope import RopeMap
from cachegen.codec.tables import PackedTables, narrow_ids, pack_tables, used_tables
from cachegen.codec.transform.basis import Transform
from cachegen.codec.transform.level import TransformLevel, transform_level
from cachegen.codec.transform.stored_transform import is_for_encoders, transform_to_arrays
from cachegen.kvcache import Geometry

NO_PROFILE = bytes(32)


@dataclass(frozen=True, eq=False)
class Profile:
    """Everything that coding the caches of one model needs, measured offline.

    Attributes:
        codec: `transform`, `plain` or `paper`.
        fingerprint: SHA-256 that identifies the model.
        geometry: planes and dtype of its caches.
        levels: the lossy ladder, smallest first.
        default_level: the smallest level whose measured KL is within the promise; where none of
            the ladder is, one that needs no profile.
        rope: rotations taken off before coding.
        frequencies: all tables, of all levels: uint16 (tables, 256), or packed where `paper` has
            many.
        table_ids: per level, the table of every coefficient of every block.
        scales: float32 (planes,): what a level's step is a multiple of; None in `transform`.
        means: float32 (coefficients,); None in `paper` and `transform`.
        transform: what preset `transform` has learned; None in the others.
        num_active: in `transform`, per level, class of tokens and group the coefficients that are
            coded.
        noise_floor: KL in nats per token by which the model differs from itself after changes
            below the rounding of its dtype; 0 where nobody measured.
        notes: what it was calibrated on, for people.
    """

    codec: str
    fingerprint: bytes
    geometry: Geometry
    levels: tuple[EncodingLevel, ...]
    default_level: str
    rope: RopeMap
    frequencies: np.ndarray | PackedTables
    table_ids: tuple[np.ndarray, ...]
    scales: np.ndarray | None = None
    means: np.ndarray | None = None
    transform: Transform | None = None
    num_active: tuple[tuple[tuple[int, ...], ...], ...] = ()
    noise_floor: float = 0.0
    notes: dict[str, str] = field(default_factory=dict)
    _rungs: dict[int, TransformLevel] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def file_bytes(self) -> bytes:
        """The profile as a file: equal profiles have equal bytes."""
        tensors = {name: np.ascontiguousarray(one) for name, one in self._tensors().items()}
        data: bytes = save(tensors, metadata={"profile": self._described().to_json()})
        return data

    @cached_property
    def reader_bytes(self) -> bytes:
        """The file without what only encoding needs: what is stored beside contexts.

        From version 2 on; of version 1 all of it.
        """
        if not self._is_weighted:
            return self.file_bytes
        tensors = load(self.file_bytes)
        needed = {name: one for name, one in tensors.items() if not is_for_encoders(name)}
        if len(needed) == len(tensors):
            return self.file_bytes
        data: bytes = save(needed, metadata=raw_metadata(self.file_bytes))
        return data

    @cached_property
    def hash(self) -> bytes:
        """SHA-256 of what readers need."""
        return hashlib.sha256(self.reader_bytes).digest()

    def check_encodes(self) -> None:
        """Refuse to encode with the part that readers need.

        Raises:
            ValueError: it is no more than that.
        """
        if self.transform is not None and not self.transform.can_encode:
            raise ValueError(
                "this profile is only what readers need, as it is stored beside contexts: to "
                "encode, pass the file that `cachegen calibrate` wrote"
            )

    @property
    def _is_weighted(self) -> bool:
        return self.transform is not None and self.transform.importance is not None

    def level(self, name: str) -> EncodingLevel:
        """The level of this name.

        Raises:
            ValueError: there is none.
        """
        return find_level(self.levels, name)

    @property
    def needs_tokens(self) -> bool:
        """Whether coding takes the tokens of a chunk beside its cache."""
        return self.transform is not None

    def model(self, name: str) -> CodingModel:
        """The numbers that a level of `plain` or `paper` is coded with.

        Raises:
            ValueError: no such level.
        """
        level = self.level(name)
        assert self.scales is not None
        frequencies, ids = used_tables(self.frequencies, self.table_ids[self.levels.index(level)])
        return CodingModel(
            steps=self.scales * np.float32(level.step),
            table_ids=ids,
            frequencies=frequencies,
            means=self.means,
            rope=self.rope,
        )

    def rung(self, index: int) -> TransformLevel:
        """The numbers that a level of `transform` is coded with; the last few are kept.

        Args:
            index: of the level in `levels`.
        """
        return kept(self._rungs, index, lambda: self._make_rung(index))

    def _make_rung(self, index: int) -> TransformLevel:
        assert self.transform is not None and isinstance(self.frequencies, np.ndarray)
        return transform_level(
            self.transform,
            self.rope,
            step=self.levels[index].step,
            num_active=self.num_active[index],
            table_ids=self.table_ids[index],
            frequencies=self.frequencies,
        )

    def _tensors(self) -> dict[str, np.ndarray]:
        supports, frequencies = pack_tables(self.frequencies)
        tensors = {"supports": supports, "frequencies": frequencies} | rope_to_arrays(self.rope)
        if self.scales is not None:
            tensors["steps"] = self.scales
        if self.means is not None:
            tensors["means"] = self.means
        if self.transform is not None:
            tensors |= transform_to_arrays(self.transform)
        for level, active in zip(self.levels, self.num_active, strict=False):
            tensors[f"num_active.{level.name}"] = np.array(active, dtype=np.uint32).ravel()
        for level, ids in zip(self.levels, self.table_ids, strict=True):
            tensors[f"table_ids.{level.name}"] = narrow_ids(ids)
        return tensors

    def _described(self) -> Description:
        return Description(
            codec=self.codec,
            fingerprint=self.fingerprint,
            geometry=self.geometry,
            levels=self.levels,
            default_level=self.default_level,
            notes=self.notes,
            noise_floor=self.noise_floor,
            is_weighted=self._is_weighted,
        )
