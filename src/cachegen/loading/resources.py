"""What a load works with, some of it its own and some shared with other loads."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cachegen.loading.assembly import Assembly
from cachegen.loading.decoding import Decoder
from cachegen.loading.measurements import Measurements
from cachegen.loading.model_queue import ModelQueue
from cachegen.loading.sharing import link_to, measurements_of, model_queue_of
from cachegen.policy.link_estimate import LinkEstimate
from cachegen.store import Store


@dataclass(frozen=True, slots=True, eq=False)
class LoadResources:
    """Everything but the chunks and their controller.

    Attributes:
        decoder: makes caches of objects.
        assembly: where they go.
        store: where objects come from.
        link: the way to it.
        model_queue: the queue for the model.
        measurements: what is known of the machine, and learned on the way.
        device: where the cache is to live.
        stall_s: silence after which a transfer counts as failed.
    """

    decoder: Decoder
    assembly: Assembly
    store: Store
    link: LinkEstimate
    model_queue: ModelQueue
    measurements: Measurements
    device: torch.device | str
    stall_s: float


def load_resources(
    decoder: Decoder, store: Store, *, device: torch.device | str, stall_s: float
) -> LoadResources:
    """For the tokens and model of a decoder, and a store."""
    measurements = measurements_of(decoder.fingerprint, str(device))
    return LoadResources(
        decoder=decoder,
        assembly=Assembly(len(decoder.tokens), len(decoder.windows) or None),
        store=store,
        link=link_to(store.url, measurements),
        model_queue=model_queue_of(decoder.fingerprint, str(device)),
        measurements=measurements,
        device=device,
        stall_s=stall_s,
    )
