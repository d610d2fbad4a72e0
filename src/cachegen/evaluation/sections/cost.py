"""What storing a context costs against computing it, at assumed prices.

A reuse spares the seconds of prefill less those of decoding, paid by the hour of the machine; a
month of storing is paid by the gigabyte. The reuses a month above which storing costs less are
storing over sparing: proportional to the price of storage, inversely to the machine's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cachegen.evaluation.results import Cost, Row

_HOUR_S = 3600.0
_GB = 1e9
REUSES = "reuses a month"
# Points of other methods that are stored for comparison.
_OTHERS = {"8-bit": ("uniform", "8"), "uncompressed": ("raw", "16")}


@dataclass(frozen=True, slots=True)
class Prices:
    """Round numbers of the size that clouds publish; assumptions, to be replaced by one's own.

    Attributes:
        gb_month: dollars for a gigabyte of object storage and a month.
        machine_hour: dollars for an hour of the machine that computes and decodes.
    """

    gb_month: float = 0.02
    machine_hour: float = 1.0

    def __post_init__(self) -> None:
        """Check them.

        Raises:
            ValueError: a price is not above 0.
        """
        if not min(self.gb_month, self.machine_hour) > 0:
            raise ValueError(f"expected prices above 0, got {self.gb_month}, {self.machine_hour}")


ASSUMED = Prices()


@dataclass(frozen=True, slots=True)
class Stored:
    """One context, as this run measured it.

    Attributes:
        num_tokens: of the context.
        size_bytes: of what may be stored of it, by name; the default level's first.
        text_bytes: of its token ids.
        prefill_s: seconds to compute it.
        decode_s: seconds to decode it at the default level.
        encode_s: seconds to encode it at the default level.
    """

    num_tokens: int
    size_bytes: Mapping[str, int]
    text_bytes: int
    prefill_s: float
    decode_s: float
    encode_s: float


def sizes_of(rows: Sequence[Row], default: tuple[str, str], *, num_values: int) -> dict[str, int]:
    """Bytes of one context by what is stored of it, each as in the dataset where it takes most.

    Args:
        rows: of every method.
        default: method and level of the default level.
        num_values: keys and values of the context.
    """
    bits: dict[tuple[str, str], float] = {}
    for row in rows:
        point = (row.method, row.level)
        bits[point] = max(bits.get(point, 0.0), row.bits_per_value)
    if default not in bits:
        return {}
    levels = [found for (method, _), found in bits.items() if method == default[0]]
    found = {default[1]: bits[default], f"all {len(levels)} levels": sum(levels)}
    found |= {name: bits[point] for name, point in _OTHERS.items() if point in bits}
    return {name: round(one * num_values / 8) for name, one in found.items()}


def costs_of(stored: Stored, prices: Prices) -> Iterator[Cost]:
    """Figures with their formulas; those of reuses only where decoding is faster than computing."""
    hour = f"${prices.machine_hour:g} an hour (assumed)"
    month = f"${prices.gb_month:g} a GB and month (assumed)"
    default, *_ = stored.size_bytes
    spared_s = stored.prefill_s - stored.decode_s
    spared = spared_s * prices.machine_hour / _HOUR_S
    yield Cost(
        "computing 1,000 times",
        1000 * stored.prefill_s * prices.machine_hour / _HOUR_S,
        "$",
        f"1,000 x {stored.prefill_s:.3g} s of prefill of {stored.num_tokens:,} tokens x {hour}",
    )
    yield Cost(
        "loading 1,000 times",
        1000 * stored.decode_s * prices.machine_hour / _HOUR_S,
        "$",
        f"1,000 x {stored.decode_s:.3g} s of decoding x {hour}; transfers are not in it",
    )
    for name, size_bytes in stored.size_bytes.items():
        yield Cost(
            f"storing 1,000 contexts, {name}",
            1000 * size_bytes / _GB * prices.gb_month,
            "$ a month",
            f"1,000 x {size_bytes / 1e6:.3g} MB x {month}",
        )
    yield Cost(
        f"moved for a reuse, {default}, over the text",
        stored.size_bytes[default] / stored.text_bytes,
        "times",
        f"{stored.size_bytes[default] / 1e6:.3g} MB over {stored.text_bytes / 1e3:.3g} kB of token "
        "ids",
    )
    if spared_s <= 0:
        return
    for name, size_bytes in stored.size_bytes.items():
        yield Cost(
            f"storing pays from, {name}",
            size_bytes / _GB * prices.gb_month / spared,
            REUSES,
            f"{size_bytes / 1e6:.3g} MB x {month} / (({stored.prefill_s:.3g} s - "
            f"{stored.decode_s:.3g} s of decoding {default}) x {hour})",
        )
    yield Cost(
        "encoding pays from",
        stored.encode_s / spared_s,
        "reuses in all",
        f"{stored.encode_s:.3g} s to encode {default} / ({stored.prefill_s:.3g} s - "
        f"{stored.decode_s:.3g} s)",
    )
    yield Cost(
        "loading pays below a price of transfer of",
        spared / (stored.size_bytes[default] / _GB),
        "$ a GB",
        f"({stored.prefill_s:.3g} s - {stored.decode_s:.3g} s) x {hour} / "
        f"{stored.size_bytes[default] / 1e6:.3g} MB; no price of transfer is assumed",
    )
