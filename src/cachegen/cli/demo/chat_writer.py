"""The writing process of `demo --model`: prompts of a chat model, stored at every level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cachegen.cli.demo.prompts import Prompts
from cachegen.cli.models import PROFILE
from cachegen.codec.levels import FIXED_LEVELS, UNCALIBRATED_DEFAULT, UNCALIBRATED_LADDER
from cachegen.codec.profile import Profile, read_profile, shipped_profile
from cachegen.engines.transformers import fingerprint, save_context

# Arbitrary: 16 to 100 do, a sentence or two.
ANSWER_TOKENS = 48
# As `save_context` has it by default.
CHUNK_TOKENS = 1536
SHIPPED = "shipped"


@dataclass(frozen=True, slots=True)
class ChatJob:
    """The job of the reading process; it contains no caches.

    Attributes:
        model: folder of the model.
        profile: file of the profile; None where it ships with the package, or there is none.
        profile_is: what people are told about it: the file, `shipped` or nothing.
        store: folder of the store.
        tokens: what is stored: the document, and what the template puts before it.
        ends: for each question, the tokens of the prompt behind that.
        answer_tokens: of an answer at most.
        levels: names to load.
        default_level: the one to answer from.
    """

    model: str
    profile: str | None
    profile_is: str
    store: str
    tokens: list[int]
    ends: list[list[int]]
    answer_tokens: int
    levels: list[str]
    default_level: str


def find_profile(model: Path, given: Path | None) -> Path | None:
    """The profile that was named, or the model's own, or None.

    Raises:
        ValueError: the model's own lies where engines take it for weights.
    """
    own, beside = model / PROFILE, model / PROFILE.name
    if given is None and beside.is_file() and not own.is_file():
        raise ValueError(
            f"expected the profile of a model in {own}, found it beside the weights, where vLLM "
            f"takes it for weights: move it there, or give --profile {beside}"
        )
    return given or (own if own.is_file() else None)


def make_chat_job(
    network: Any, prompts: Prompts, *, model: Path, profile: Path | None, store: Path
) -> ChatJob:
    """Everything that is stored and asked; nothing is computed yet.

    Raises:
        ValueError: the model has too few positions.
    """
    _check_room(network, prompts)
    known = _known(network, profile)
    levels = (known.levels if known else UNCALIBRATED_LADDER) + FIXED_LEVELS
    return ChatJob(
        model=str(model),
        profile=str(profile) if profile else None,
        profile_is=str(profile) if profile else SHIPPED if known else "",
        store=str(store),
        tokens=prompts.context,
        ends=prompts.ends,
        answer_tokens=ANSWER_TOKENS,
        levels=[level.name for level in levels],
        default_level=known.default_level if known else UNCALIBRATED_DEFAULT,
    )


def store_chat(network: Any, job: ChatJob, progress: Callable[[int, int], None]) -> dict[str, int]:
    """Prefill and save; bytes by level."""
    manifest = save_context(
        network,
        job.tokens,
        store=job.store,
        profile=_known(network, Path(job.profile) if job.profile else None),
        levels=job.levels,
        chunk_tokens=CHUNK_TOKENS,
        progress=progress,
    )
    sizes = dict.fromkeys(job.levels, 0)
    for chunk in manifest.chunks:
        for stored in chunk.objects:
            if stored.level in sizes:
                sizes[stored.level] += stored.size_bytes
    return sizes


def _known(network: Any, profile: Path | None) -> Profile | None:
    return read_profile(profile) if profile else shipped_profile(fingerprint(network))


def _check_room(network: Any, prompts: Prompts) -> None:
    room = getattr(network.config.get_text_config(decoder=True), "max_position_embeddings", None)
    asked = _longest(prompts.ends)
    needed = len(prompts.context) + asked + ANSWER_TOKENS
    if room is not None and needed > room:
        raise ValueError(
            f"expected at most {room} tokens, the positions of the model, got {needed}: "
            f"{len(prompts.context)} with the document, {asked} of a question, {ANSWER_TOKENS} to "
            f"answer; give --tokens {max(room - needed + len(prompts.context) - 64, 1)} or less"
        )


def _longest(ends: Sequence[Sequence[int]]) -> int:
    return max(map(len, ends))
