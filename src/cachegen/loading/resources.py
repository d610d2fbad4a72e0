"""The resources of a load: its own, and those shared with other loads."""

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
    """The resources of a load.

    Attributes:
        decoder: decodes objects.
        assembly: the cache to decode into.
        store: the store to fetch from.
        link: estimate of the link to the store.
        model_queue: the queue for the model.
        measurements: times on this machine, read and added to.
        device: the device of the result.
        stall_s: seconds of silence after which a transfer fails.
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
    """The resources for a decoder's tokens and model, and a store."""
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
