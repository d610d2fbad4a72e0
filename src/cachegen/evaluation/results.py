"""What an evaluation of one model found: what is printed, kept, and drawn in the report.

Optional sections are empty where nothing was measured. Intervals are of 95% confidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Model:
    """Which model was evaluated, and what its cache is made of."""

    name: str
    layers: int
    kv_heads: int
    head_dim: int
    values_per_token: int
    dtype: str
    parameters: int
    positions: int


@dataclass(frozen=True, slots=True)
class Method:
    """What a method does, and where it is from."""

    description: str
    source: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """What a dataset asks, and how many cases there were."""

    description: str
    cases: int


@dataclass(frozen=True, slots=True)
class Row:
    """One point of a method's curve on one dataset.

    Attributes:
        method: name, a key of `Result.methods`.
        level: which point of the method's curve.
        dataset: name, a key of `Result.datasets`.
        tokens: mean length of the contexts.
        bits_per_value: all stored bytes times eight, over the values of the uncompressed cache.
        bits_per_value_interval: of the mean.
        kl: divergence from the uncompressed run, nats per token.
        kl_interval: of the mean.
        rel_ppl: relative change of perplexity; None where the dataset asks.
        rel_ppl_interval: of the mean.
        top1: share of tokens whose most likely successor is unchanged.
        score: mean of the dataset's measure, 0 to 1; None where the dataset asks nothing.
        score_interval: of the mean.
        score_uncompressed: the same from uncompressed caches.
        n: cases measured.
    """

    method: str
    level: str
    dataset: str
    tokens: float
    bits_per_value: float
    kl: float
    top1: float
    n: int
    bits_per_value_interval: Interval | None = None
    kl_interval: Interval | None = None
    rel_ppl: float | None = None
    rel_ppl_interval: Interval | None = None
    score: float | None = None
    score_interval: Interval | None = None
    score_uncompressed: float | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A point that was not measured, and why."""

    method: str
    level: str
    reason: str


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of the default level, each in its worst dataset, and what others need there.

    Attributes:
        default_level: of this package's method.
        noise_floor_kl: KL of two uncompressed runs that differ in how they were computed.
        default_bits_per_value: of the default level.
        default_kl: of the default level, nats per token.
        default_rel_ppl: of the default level.
        score_drop: uncompressed score less the default level's, 0 to 1.
        score_drop_interval: of that difference, case by case.
        kvtc_bits_at_default_kl: bits a value of the coder in the style of KVTC at the default
            level's KL, in the dataset where ours wins least.
        kvserve_bits_at_default_kl: the same in the style of KVServe.
        paper_bits_at_default_kl: the same of the paper's encoder.
        int8_bits: bits a value of 8-bit quantisation.
        decode_over_prefill: time to decode over time to prefill.
        encode_over_prefill: time to encode over time to prefill.
    """

    default_level: str
    noise_floor_kl: float | None = None
    default_bits_per_value: float | None = None
    default_kl: float | None = None
    default_rel_ppl: float | None = None
    score_drop: float | None = None
    score_drop_interval: Interval | None = None
    kvtc_bits_at_default_kl: float | None = None
    kvserve_bits_at_default_kl: float | None = None
    paper_bits_at_default_kl: float | None = None
    int8_bits: float | None = None
    decode_over_prefill: float | None = None
    encode_over_prefill: float | None = None


@dataclass(frozen=True, slots=True)
class Ttft:
    """Time to the first token over one link; its parts are medians and may overlap.

    Attributes:
        mbit_s: rate of the link; None where it is not shaped.
        context_tokens: tokens of the context.
        concurrency: requests at once.
        method: `text` is a full prefill.
        level: of the method.
        ttft_s_p50: median.
        ttft_s_p95: 95th percentile.
        n: requests timed.
        bytes: over the link, of one request.
        fetch_s: time spent fetching.
        decode_s: time spent decoding.
        recompute_s: time spent computing keys and values.
    """

    mbit_s: float | None
    context_tokens: int
    concurrency: int
    method: str
    level: str
    ttft_s_p50: float
    ttft_s_p95: float
    n: int
    bytes: int | None = None
    fetch_s: float | None = None
    decode_s: float | None = None
    recompute_s: float | None = None


@dataclass(frozen=True, slots=True)
class Slo:
    """Deadlines met by one policy over one kind of link: `met` is a share, 0 to 1, of n loads."""

    trace: str
    deadline_s: float
    policy: str
    met: float
    n: int
    mean_kl: float | None = None


@dataclass(frozen=True, slots=True)
class Moment:
    """One decision of one load: the link's rate at that time, and how a chunk was got."""

    t_s: float
    mbit_s: float
    chunk: int
    choice: str


@dataclass(frozen=True, slots=True)
class Step:
    """Size of what has all parts up to this one, at the default level's KL."""

    step: str
    bits_per_value: float
    kl: float


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the work, in seconds and as a share of the prefill."""

    part: str
    seconds: float
    share_of_prefill: float


@dataclass(frozen=True, slots=True)
class Cost:
    """One figure of what storing costs against computing, with its formula in words."""

    what: str
    value: float
    unit: str
    formula: str


@dataclass(frozen=True, slots=True)
class Result:
    """One run on one model.

    Attributes:
        command: that made it.
        commit: of this package.
        date: of the run.
        machine: that it ran on.
        versions: of packages that decide results.
        seed: of every random choice.
        quick: whether it was a short run.
        kl_arithmetic: numbers in which quality was computed.
        prefill_arithmetic: numbers in which contexts were prefilled, in all times too.
        model: that was evaluated.
        methods: by name.
        datasets: by name.
        rows: quality and size.
        failures: points that are missing.
        summary: of the default level.
        ttft: times to the first token.
        slo: deadlines met, simulated with measured costs.
        timeline: one load.
        ablation: parts of the codec, one after the other.
        breakdown: parts of the time.
        cost: of storing and computing.
    """

    command: str
    commit: str
    date: str
    machine: str
    seed: int
    quick: bool
    kl_arithmetic: str
    prefill_arithmetic: str
    model: Model
    summary: Summary
    versions: Mapping[str, str] = field(default_factory=dict)
    methods: Mapping[str, Method] = field(default_factory=dict)
    datasets: Mapping[str, Dataset] = field(default_factory=dict)
    rows: tuple[Row, ...] = ()
    failures: tuple[Failure, ...] = ()
    ttft: tuple[Ttft, ...] = ()
    slo: tuple[Slo, ...] = ()
    timeline: tuple[Moment, ...] = ()
    ablation: tuple[Step, ...] = ()
    breakdown: tuple[Part, ...] = ()
    cost: tuple[Cost, ...] = ()
