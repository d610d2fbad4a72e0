"""Requests as vLLM's scheduler holds them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch


def request(
    *,
    salt: str | None = None,
    lora: str | None = None,
    name: str = "adapter",
    number: int = 1,
    media: Sequence[tuple[str, str, int]] = (),
    embeddings: torch.Tensor | None = None,
) -> Any:
    """A ``vllm.v1.request.Request``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest
        from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange
        from vllm.v1.request import Request

        return Request(
            "request",
            None if embeddings is not None else [1, 2, 3],
            SamplingParams(),
            None,
            prompt_embeds=embeddings,
            cache_salt=salt,
            lora_request=LoRARequest(name, number, lora) if lora else None,
            mm_features=[
                MultiModalFeatureSpec(None, kind, identifier, PlaceholderRange(place, 3))
                for kind, identifier, place in media
            ],
        )
