"""How fast well-known GPUs prefill and decode, from published rates and stated assumptions."""

from __future__ import annotations

from dataclasses import dataclass

from cachegen.codec.levels import RAW
from cachegen.policy.costs import Costs, DecodeCost, PrefillCost
from cachegen.simulation.geometries import LEVEL_ORDER, ModelGeometry

# Assumptions, not measured (docs/guide/deadlines.md); both matter, so set those of your machine.
UTILISATION = 0.5
DECODE_GB_S = 20.0
# As measured between two namespaces (docs/LOG.md, 2026-11-21, distant stores).
REQUEST_S = 0.002

_BYTES_PER_PARAMETER = 2  # bf16


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU by its data sheet, the fastest variant of its name (SXM if there is one).

    Attributes:
        name: its common name.
        flops: dense bf16 operations per second with fp32 accumulation.
        bytes_per_s: bandwidth of its memory.
    """

    name: str
    flops: float
    bytes_per_s: float


GPUS = (
    Gpu("A100-80G", 312e12, 2.04e12),
    Gpu("H100", 989e12, 3.35e12),
    Gpu("H200", 989e12, 4.8e12),
    Gpu("L40S", 362e12, 0.864e12),
    Gpu("RTX-4090", 165e12, 1.008e12),
)


def find_gpu(name: str) -> Gpu:
    """The GPU of this name, in any case, with spaces or hyphens.

    Raises:
        ValueError: there is none; the message lists the known ones.
    """
    for gpu in GPUS:
        if gpu.name.lower() == name.lower().replace(" ", "-"):
            return gpu
    raise ValueError(f"expected one of {', '.join(gpu.name for gpu in GPUS)}; got {name!r}")


def prefill_cost(
    model: ModelGeometry, gpu: Gpu, *, num_gpus: int = 1, utilisation: float = UTILISATION
) -> PrefillCost:
    """Cost of a prefill: 2 operations per token and weight, 2 per pair of tokens and dimension.

    Each call also reads all active weights once, which bounds short ones. Several GPUs share the
    work without loss.

    Raises:
        ValueError: no GPU, or a utilisation outside (0, 1].
    """
    if num_gpus < 1 or not 0 < utilisation <= 1:
        raise ValueError(f"expected GPUs and utilisation in (0, 1], got {num_gpus}, {utilisation}")
    flops = num_gpus * utilisation * gpu.flops
    weight_bytes = _BYTES_PER_PARAMETER * model.num_active_parameters
    pair_operations = 2 * model.num_layers * model.attended_width
    return PrefillCost(
        a_s=weight_bytes / (num_gpus * gpu.bytes_per_s),
        b_s=2 * model.num_active_parameters / flops,
        # n tokens after p others make n (2p + n) / 2 pairs.
        c_s=pair_operations / 2 / flops,
    )


def costs_of(
    model: ModelGeometry,
    gpu: Gpu,
    *,
    num_gpus: int = 1,
    utilisation: float = UTILISATION,
    decode_gb_s: float = DECODE_GB_S,
    request_s: float = REQUEST_S,
) -> Costs:
    """What a load costs besides transfers.

    Args:
        model: the model whose cache is loaded.
        gpu: the GPU that it is loaded to.
        num_gpus: number of GPUs that share the work.
        utilisation: share of the published rate that a prefill reaches.
        decode_gb_s: gigabytes of decoded cache a second; `raw` is not decoded.
        request_s: seconds from a request to its first byte.

    Raises:
        ValueError: no GPU, a utilisation outside (0, 1], or no decoding speed.
    """
    if not decode_gb_s > 0 or request_s < 0:
        raise ValueError(f"expected a decoding speed above 0 GB/s, got {decode_gb_s}")
    decode = DecodeCost(b_s=model.bytes_per_token / (decode_gb_s * 1e9))
    prefill = prefill_cost(model, gpu, num_gpus=num_gpus, utilisation=utilisation)
    return Costs(prefill, {level: decode for level in LEVEL_ORDER if level != RAW}, request_s)
