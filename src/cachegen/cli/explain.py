"""Descriptions of chunks and profiles, for people and scripts."""

from __future__ import annotations

from typing import Any

from cachegen.codec.encoded import EncodedChunk, named_layers
from cachegen.codec.levels import Quality
from cachegen.codec.profile import NO_PROFILE, Profile, read_profile
from cachegen.kvcache import Geometry


def explain_profile(data: bytes) -> dict[str, Any]:
    """What a profile holds.

    Raises:
        BitstreamError: it is none.
    """
    profile = read_profile(data)
    return {
        "kind": "profile",
        "bytes": len(data),
        "bytes_for_readers": len(profile.reader_bytes),
        "hash": profile.hash.hex(),
        "codec": profile.codec,
        "model_fingerprint": profile.fingerprint.hex(),
        **_geometry(profile.geometry),
        "rotated_planes": sum(index is not None for index in profile.rope.of_plane),
        **_transform(profile),
        "tables": len(profile.frequencies),
        "default_level": profile.default_level,
        **_measured_up_to(profile),
        **({"noise_floor_kl": profile.noise_floor} if profile.noise_floor else {}),
        **_sizes(profile),
        "levels": _levels(profile),
        **{f"note_{name}": text for name, text in profile.notes.items()},
    }


def explain_chunk(data: bytes) -> dict[str, Any]:
    """What a chunk holds, its arrays and their sizes.

    Raises:
        BitstreamError: it is none, or it is damaged.
    """
    from cachegen.bitstream.chunk import describe

    chunk = describe(data).chunk
    values = sum(
        plane.width * chunk.tokens_held[index // 2]
        for index, plane in enumerate(chunk.geometry.planes)
    )
    arrays = [
        {"name": name, "type": str(array.dtype), "shape": list(array.shape), "bytes": array.nbytes}
        for name, array in chunk.arrays.items()
    ]
    for number, block in enumerate(chunk.blocks):
        arrays.append(
            {
                "name": f"block {number}",
                "shape": [block.num_rows, len(block.active)],
                "active": int(block.active.sum()),
                "escapes": len(block.escapes),
                "substreams": len(block.sizes),
                "lanes": block.lanes,
                "bytes": block.words.nbytes,
            }
        )
    needed = chunk.profile_hash
    return {
        "kind": "chunk",
        "bytes": len(data),
        "level": chunk.level,
        "codec": chunk.codec,
        "tokens": f"{chunk.start}..{chunk.start + chunk.num_tokens}",
        **_geometry(chunk.geometry),
        **_layers(chunk),
        "bits_per_value": round(8 * len(data) / max(values, 1), 4),
        **_promise(chunk),
        "profile": "none needed" if needed == NO_PROFILE else needed.hex(),
        "model_fingerprint": _known(chunk.fingerprint),
        "chunk_id": _known(chunk.chunk_id),
        "arrays": arrays,
    }


def _layers(chunk: EncodedChunk) -> dict[str, Any]:
    """Which of the model's layers a chunk holds, where it is not all of them."""
    named = named_layers(chunk)
    return {} if named is None else {"of_layers": ", ".join(map(str, named))}


def _transform(profile: Profile) -> dict[str, Any]:
    """What a profile of the transform codec has learned."""
    if profile.transform is None:
        return {}
    return {
        "layer_groups": len(profile.transform.groups),
        "vocabulary": max((len(table) for table in profile.transform.features), default=0),
        "features_of_lags": ", ".join(str(table.shape[1]) for table in profile.transform.features),
        "sinks": profile.transform.num_sinks,
        "tokens_weigh": "differently" if profile.transform.importance else "the same",
    }


def _promise(chunk: EncodedChunk) -> dict[str, Any]:
    """What a chunk of the transform codec says of its tokens and its distortion."""
    arrays, fields = chunk.arrays, dict[str, Any]()
    if "tokens_digest" in arrays:
        fields["tokens_digest"] = arrays["tokens_digest"].tobytes().hex()
    if "rung" in arrays:
        fields["rung"] = int(arrays["rung"][0])
    if "distortion" in arrays:
        measured, bound = (float(f"{number:.4g}") for number in arrays["distortion"])
        fields |= {"distortion_nats_per_token": measured, "distortion_bound": bound}
    return fields


def _geometry(geometry: Geometry) -> dict[str, Any]:
    shapes = sorted({(plane.heads, plane.dim) for plane in geometry.planes})
    return {
        "layers": geometry.num_layers,
        "plane_shapes": ", ".join(f"{heads} heads x {dim}" for heads, dim in shapes),
        "dtype": str(geometry.dtype).removeprefix("torch."),
        "values_per_token": geometry.values_per_token,
    }


def _levels(profile: Profile) -> list[dict[str, Any]]:
    rows = []
    for index, level in enumerate(profile.levels):
        row: dict[str, Any] = {"name": level.name, "step": round(level.step, 5)}
        if profile.num_active:
            by_class = (", ".join(map(str, own)) for own in profile.num_active[index])
            active = "; ".join(by_class)
            row |= {"coefficients": active, "bound": round(level.bound, 6)}
        if level.quality is not None:
            row |= _quality(level.quality)
        if level.domains:
            row["domains"] = {name: _quality(found) for name, found in level.domains.items()}
        if level.long is not None:
            found = {name: _quality(one) for name, one in level.long.domains.items()}
            row["long"] = {"context_tokens": level.long.num_tokens, "domains": found}
        rows.append(row)
    return rows


def _measured_up_to(profile: Profile) -> dict[str, Any]:
    """The longest contexts that the default level was measured on, where that is known."""
    long = next((own.long for own in profile.levels if own.name == profile.default_level), None)
    tokens = profile.notes.get("context_tokens", "") if long is None else str(long.num_tokens)
    return {"measured_up_to_tokens": int(tokens)} if tokens.isdecimal() else {}


def _sizes(profile: Profile) -> dict[str, Any]:
    """What is said where sizes are not known, and nothing where they are."""
    measured = [level.quality for level in profile.levels if level.quality is not None]
    if all(quality.bits_per_value is not None for quality in measured):
        return {}
    return {
        "sizes": "not known: this profile was made before calibration measured bits per value; "
        "calibrate again to have them"
    }


def _quality(quality: Quality) -> dict[str, Any]:
    row: dict[str, Any] = {
        "kl": round(quality.kl, 6),
        "rel_ppl": round(quality.rel_ppl, 6),
        "top1": round(quality.top1, 4),
        "measured_tokens": quality.num_tokens,
    }
    if quality.rel_ppl_error is not None:
        row["rel_ppl_error"] = round(quality.rel_ppl_error, 6)
    if quality.answer_kl is not None:
        row["answer_kl"] = round(quality.answer_kl, 6)
    if quality.bits_per_value is not None:
        row["bits_per_value"] = round(quality.bits_per_value, 4)
    if quality.exact_match is not None:
        row |= {
            "exact_match": quality.exact_match,
            "exact_match_uncompressed": quality.exact_match_uncompressed,
            "answers": quality.num_answers,
        }
    return row


def _known(digest: bytes) -> str:
    return digest.hex() if any(digest) else "not recorded"
