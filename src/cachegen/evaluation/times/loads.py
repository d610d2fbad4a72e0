"""Times until a context's cache is there, over real links of several rates.

The store is `cachegen serve` behind a link whose rate is set; the loads are those of users. The
time is until the whole cache is in memory: what follows, a question and a token, is the same for
all.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from cachegen.codec.levels import PACKED, RAW
from cachegen.codec.profile import Profile
from cachegen.engines.transformers import fingerprint
from cachegen.errors import CacheGenError
from cachegen.evaluation.judge import Models
from cachegen.evaluation.methods.registry import OURS
from cachegen.evaluation.results import Moment, Ttft
from cachegen.evaluation.times.apart import apart
from cachegen.evaluation.times.costs import measure_prefill
from cachegen.evaluation.times.falling import load_while_falling
from cachegen.evaluation.times.storing import default_level, store_context
from cachegen.kvcache import KVCache
from cachegen.loading.load import load
from cachegen.loading.result import LoadResult
from cachegen.netem import Link, open_link
from cachegen.netem.serving import serving
from cachegen.policy.controller import Controller
from cachegen.policy.fixed import Fixed
from cachegen.policy.min_ttft import MinTTFT
from cachegen.store import Store, open_store

# A way that would take longer than this many prefills tells nothing but that. Arbitrary: 3 to 20.
_MOST_PREFILLS = 6.0
# A load in 8 bits would meet this many times its own time over the link; and what the link falls
# to. Arbitrary: 1.2 to 2, and 4 to 20, do.
_SPARE, _FALL = 1.5, 10.0
_BITS_PER_BYTE = 8
_TEXT, _POLICY = "text", "adaptive"
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Loads:
    """What is timed.

    Attributes:
        lengths: of contexts, in tokens.
        mbit_s: rates of the link.
        concurrency: loads at once, each of its own context, over the last rate but one.
        runs: of each.
    """

    lengths: Sequence[int]
    mbit_s: Sequence[float]
    concurrency: Sequence[int]
    runs: int


QUICK = Loads(lengths=(1536,), mbit_s=(50, 200, 1000), concurrency=(1,), runs=3)
FULL = Loads(
    lengths=(1536, 4096, 7680),
    mbit_s=(10, 20, 50, 100, 200, 500, 1000),
    concurrency=(1, 2, 4, 8),
    runs=7,
)


def timed_loads(
    models: Models, profile: Profile | None, tokens: Sequence[int], loads: Loads, tell: Tell
) -> tuple[list[Ttft], list[Moment]]:
    """Time every way of having a context, at every rate; and one load whose link gets slower.

    The latter is of the longest context, and has a deadline that a load in 8 bits would meet if the
    link stayed as it is; it falls to a tenth when half of the tokens are there.

    Args:
        models: whose context it is.
        profile: of the model; None for levels that need none.
        tokens: a text, as long as the longest context at least.
        loads: what is timed.
        tell: told what is done.

    Raises:
        CacheGenError: a load at `raw` gave another cache than the model: nothing was timed.
    """
    with apart(), open_link(None) as link, tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "store"
        with serving(link, folder) as url:
            rows: list[Ttft] = []
            fitting = [length for length in loads.lengths if length <= len(tokens)]
            for length in fitting or [len(tokens)]:
                world = _World(models, profile, tokens[:length], link, open_store(url))
                tell(f"loads of {length} tokens over a link ({link.kind})")
                kv = world.save(max(loads.concurrency))
                rows += _timed(world, loads, kv, tell)
            return rows, _falling(world, loads, num_values=kv.num_values)


@dataclass(frozen=True, slots=True, eq=False)
class _World:
    models: Models
    profile: Profile | None
    tokens: Sequence[int]
    link: Link
    store: Store

    @property
    def default(self) -> str:
        return default_level(self.profile)

    def save(self, number: int) -> KVCache:
        """Prefill and store the context for so many tenants, and check that it comes back."""
        kv = self.models.prefill(self.tokens)
        for tenant in range(number):
            store_context(
                kv,
                model=self.models.writer,
                tokens=self.tokens,
                profile=self.profile,
                store=self.store,
                salt=_salt(tenant),
            )
        found = self.load(Fixed(RAW)).kv
        pairs = [] if found is None else list(zip(found.planes(), kv.planes(), strict=True))
        if not pairs or not all(one.equal(other) for one, other in pairs):
            raise CacheGenError("a load at raw gave another cache than the model; nothing is timed")
        return kv

    def load(self, controller: Controller | None, tenant: int = 0, **options: Any) -> LoadResult:
        return load(
            self.tokens,
            store=self.store,
            profile=self.profile,
            controller=controller,
            recompute=self.models.prefill,
            fingerprint=fingerprint(self.models.writer),
            salt=_salt(tenant),
            **options,
        )


def _salt(tenant: int) -> bytes:
    """Tenants share nothing, so that each of their loads has transfers of its own."""
    return str(tenant).encode()


def _timed(world: _World, loads: Loads, kv: KVCache, tell: Tell) -> Iterator[Ttft]:
    measure_prefill(world.models, world.tokens)
    computed = [_prefill_s(world) for _ in range(loads.runs)]
    controllers: dict[tuple[str, str], tuple[Callable[[], Controller], float]] = {
        ("raw", ""): (lambda: Fixed(RAW), kv.size_bytes),
        ("8-bit", ""): (lambda: Fixed(PACKED), kv.size_bytes / 2),
        (OURS, world.default): (lambda: Fixed(world.default), 0.0),
        (OURS, _POLICY): (MinTTFT, 0.0),
    }
    for mbit_s in loads.mbit_s:
        world.link.set_rate(mbit_s)
        yield _text_row(world, mbit_s, 1, computed)
        for (method, level), (make, size_bytes) in controllers.items():
            expected_s = _BITS_PER_BYTE * size_bytes / (1e6 * mbit_s)
            if expected_s > _MOST_PREFILLS * median(computed):
                continue
            results = [world.load(make()) for _ in range(loads.runs)]
            yield _row(world, mbit_s, 1, (method, level), results)
        tell(f"  {mbit_s:g} Mbit/s: done")
    shared = loads.mbit_s[-2:][0]
    world.link.set_rate(shared)
    for number in loads.concurrency:
        if number > 1:
            with ThreadPoolExecutor(number) as pool:
                computed = list(pool.map(lambda _: _prefill_s(world), range(number)))
                yield _text_row(world, shared, number, computed)
                for level, make in (
                    (world.default, lambda: Fixed(world.default)),
                    (_POLICY, MinTTFT),
                ):
                    results = list(pool.map(lambda t, m=make: world.load(m(), t), range(number)))
                    yield _row(world, shared, number, (OURS, level), results)
    world.link.set_rate(None)


def _falling(world: _World, loads: Loads, *, num_values: int) -> list[Moment]:
    """How each chunk was got while the link got slower."""
    mbit_s = loads.mbit_s[-2:][0]
    slo_s = _SPARE * _BITS_PER_BYTE * num_values / (1e6 * mbit_s)
    result, rates = load_while_falling(
        partial(world.load, None),
        world.link,
        mbit_s=mbit_s,
        low_mbit_s=mbit_s / _FALL,
        slo_s=slo_s,
    )
    world.link.set_rate(None)
    return [
        Moment(span.began_s, _rate_at(rates, span.began_s), span.chunk, span.level)
        for span in result.spans
        if span.chunk is not None and span.work in ("fetch", "recompute")
    ]


def _rate_at(rates: Sequence[tuple[float, float]], at_s: float) -> float:
    return [mbit_s for began_s, mbit_s in rates if began_s <= at_s][-1]


def _prefill_s(world: _World) -> float:
    began_s = time.perf_counter()
    world.models.prefill(world.tokens)
    return time.perf_counter() - began_s


def _text_row(world: _World, mbit_s: float, number: int, seconds: Sequence[float]) -> Ttft:
    return Ttft(
        mbit_s=mbit_s,
        context_tokens=len(world.tokens),
        concurrency=number,
        method=_TEXT,
        level="",
        ttft_s_p50=median(seconds),
        ttft_s_p95=_p95(seconds),
        n=len(seconds),
        bytes=0,
        fetch_s=0.0,
        decode_s=0.0,
        recompute_s=median(seconds),
    )


def _row(
    world: _World,
    mbit_s: float,
    number: int,
    way: tuple[str, str],
    results: Sequence[LoadResult],
) -> Ttft:
    seconds = [result.ttft_s for result in results]
    return Ttft(
        mbit_s=mbit_s,
        context_tokens=len(world.tokens),
        concurrency=number,
        method=way[0],
        level=way[1],
        ttft_s_p50=median(seconds),
        ttft_s_p95=_p95(seconds),
        n=len(seconds),
        bytes=round(median(result.size_bytes for result in results)),
        fetch_s=median(result.fetch_s for result in results),
        decode_s=median(result.decode_s for result in results),
        recompute_s=median(result.recompute_s for result in results),
    )


def _p95(seconds: Sequence[float]) -> float:
    """The 95th percentile; of few the largest."""
    return quantiles(seconds, n=20, method="inclusive")[-1] if len(seconds) > 1 else seconds[0]
