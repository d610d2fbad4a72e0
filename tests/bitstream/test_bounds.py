"""Readers enforce every bound that FORMAT.md states, and every such sentence is covered here."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cachegen.bitstream.chunk import decode
from cachegen.bitstream.manifest import MAX_SIZE_BYTES, read_manifest
from cachegen.errors import BitstreamError
from tests.bitstream.bounds import (
    Broken,
    _doubled_key,
    _long_header,
    added,
    array,
    block,
    block_shape,
    bound,
    described,
    document,
    entries,
    entry,
    escaped_weights,
    golden,
    header,
    levels,
    long_contexts,
    longer,
    many_groups,
    many_tables,
    more_tensors,
    multipliers,
    named,
    own_tables,
    paper_tables,
    put,
    quality,
    rekeyed,
    table_of,
    tensor,
    too_many_parts_of_a_step,
)

FORMAT = re.sub(r"\s+", " ", (Path(__file__).parents[2] / "FORMAT.md").read_text())

PACKED, PLAIN, PAPER = "packed-bfloat16", "plain-float32", "paper-float32"
LOSSLESS, LAYERS = "lossless-bfloat16", "lossless-layers-bfloat16"
ADAPTIVE, TRANSFORM = "adaptive-float32", "transform-float32"

HEADER = (
    bound(
        "bytes of the header, a multiple of 8, at most 1 MiB",
        lambda: header("header_size", 8, "I", 2**20 + 8),
        lambda: header("header_size", 8, "I", 260),
    ),
    bound("entries of the array table, at most 4,096", lambda: header("num_arrays", 12, "I", 4097)),
    bound("the first token, at most 2^48", lambda: header("start", 32, "Q", 2**48 + 1)),
    bound("tokens covered, at most 2^24", lambda: header("num_tokens", 40, "I", 2**24 + 1)),
    bound("entries of the geometry table, at least 1", lambda: header("num_runs", 44, "H", 0)),
    bound(
        "bytes of the level's name, 1 to 64",
        lambda: header("level_size", 46, "H", 0),
        lambda: header("level_size", 46, "H", 65),
    ),
    bound("zeros up to `header_size`, the next multiple of 8", lambda: padding_of_the_header()),
    bound("`layers` u32 (>= 1)", lambda: header(r"geometry\[0\].layers", 144, "I", 0)),
    bound(
        "`tokens_held` u32 (at most `num_tokens`; fewer",
        lambda: header(r"geometry\[0\].tokens_held", 156, "I", 24),
    ),
    bound(
        "Layers over all runs: at most 4,096",
        lambda: header(r"geometry\[0\].layers", 144, "I", 4097),
    ),
    bound(
        "at least 1 in every layer, at most 2^24 over all layers",
        lambda: header(r"geometry\[0\]", 160, "HH", 0, 0),
        lambda: header(r"geometry\[0\]", 148, "I", 2**24 + 1),
    ),
    bound(
        "counted from 0 without gaps",
        lambda: entry(r"blocks\[1\].words", 1, "B", 9, index=13, name=LOSSLESS),
    ),
    bound("`ndim` u8 (1 or 2)", lambda: entry(r"arrays\[0\].ndim", 3, "B", 3)),
    bound(
        "Entries are in ascending order of (`block`, `name`), without repetition",
        lambda: entries(r"arrays\[1\]$", 1, 0),
        lambda: entries(r"arrays\[1\]$", 0, 0),
    ),
    bound("each padded with zeros to a multiple of 8 bytes", lambda: padding_of_an_array()),
    bound(
        "would exceed the caller's limit",
        lambda: Broken("geometry", lambda: decode(golden(f"{PACKED}.cgkv"), max_bytes=100)),
    ),
)

ARRAYS = (
    bound(
        "spare bits are zero",
        lambda: array(r"blocks\[1\].active", "active", put((1, 255)), of=PLAIN, block=1),
    ),
    bound(
        "blocks with escapes; the others must not have it",
        lambda: added(
            r"blocks\[0\].escapes", "escapes", np.zeros(0, dtype=np.int8), of=LOSSLESS, block=0
        ),
    ),
    bound(
        "(sum of sizes + 32,)",
        lambda: array(r"blocks\[0\].words", "words", lambda w: w[:-1], of=PLAIN, block=0),
    ),
    bound(
        "in ascending order, below 4,096; the geometry describes these, and no others",
        lambda: array("layers", "layers", lambda one: one[::-1].copy(), of=LAYERS),
        lambda: array("layers", "layers", put((1, 4096)), of=LAYERS),
        lambda: array("layers", "layers", lambda one: one[:1], of=LAYERS),
    ),
    bound(
        "first and last symbol above 0 of each table",
        lambda: array("supports", "supports", put(((0, 0), 0)), of=PLAIN),
        lambda: array("supports", "supports", put(((0, 0), 255)), of=LOSSLESS),
    ),
    bound(
        "coefficients of a group, 1 to 1,024",
        lambda: array("group", "group", put((0, 0)), of=ADAPTIVE),
        lambda: array("group", "group", put((0, 1025)), of=ADAPTIVE),
    ),
    bound(
        "float32 (1,): above 0, at most 16",
        lambda: array("weight_step", "weight_step", put((0, 0)), of=ADAPTIVE),
        lambda: array("weight_step", "weight_step", put((0, 16.5)), of=ADAPTIVE),
        lambda: array("weight_step", "weight_step", put((0, np.nan)), of=ADAPTIVE),
    ),
    bound("(tokens without sinks,), 1 to 63", lambda: multipliers(0), lambda: multipliers(64)),
)

BLOCKS = (
    bound(
        "There are no more rows than tokens and no more coefficients than values per token",
        lambda: block_shape(0, 24),
        lambda: block_shape(1, 26),
    ),
    bound("lanes are 8, 16 or 32", lambda: block_shape(2, 7)),
    bound(
        "both numbers of the grid are at least 1",
        lambda: block_shape(3, 0),
        lambda: block_shape(4, 0),
    ),
    bound("the last number is 0", lambda: block_shape(5, 1)),
    bound(
        "`active` and `constants` together describe every coefficient",
        lambda: array(r"blocks\[0\].constants", "constants", lambda c: c[1:], of=PLAIN, block=0),
        lambda: array(r"blocks\[0\].active", "active", lambda a: a[:-1], of=PLAIN, block=0),
    ),
    bound(
        "the frequencies of a table sum to 4,096 and none exceeds 4,095",
        lambda: array("frequencies", "frequencies", put((0, 4095)), of=PLAIN),
    ),
    bound(
        "and ends with 32 zero words",
        lambda: array(r"blocks\[0\].words", "words", put((-1, 1)), of=PLAIN, block=0),
    ),
    bound("substreams that use more than 4,096 different tables", many_tables),
    bound(
        "each is at least 2^16",
        lambda: array("words", "words", lambda words: np.zeros_like(words), of=PLAIN, block=0),
    ),
    bound(
        "After the last step every state is exactly 2^16 and every word is used",
        lambda: block("words", longer, of=PLAIN),
    ),
    bound(
        "The number of escapes equals the number of symbols 0",
        lambda: array("escapes", "escapes", lambda e: e[1:], of=PLAIN, block=0),
    ),
)

LAST = ("chunks", 1)
MANIFESTS = (
    bound(
        "and lists and objects; at most 16 MiB".removeprefix("and "),
        lambda: Broken("manifest", lambda: read_manifest(b" " * (MAX_SIZE_BYTES + 1))),
    ),
    bound(
        "`chunks` begin at token 0, are adjacent, and have 1 to 2^24 tokens each",
        lambda: rekeyed(r"chunks\[0\].start", 0, 1, 128),
        lambda: rekeyed(r"chunks\[1\].start", 1, 129, 300),
        lambda: rekeyed(r"chunks\[1\].stop", 1, 128, 128),
        lambda: rekeyed(r"chunks\[1\].stop", 1, 128, 128 + 2**24 + 1),
        lambda: rekeyed(r"chunks\[1\].stop", 1, 128, 2**40),
    ),
    bound(
        "`num_tokens` is the `stop` of the last, or the last multiple of 64 before it",
        lambda: document("num_tokens", ("num_tokens",), 192),
        lambda: document("num_tokens", ("num_tokens",), 255),
        lambda: document("num_tokens", ("num_tokens",), 301),
        lambda: document("num_tokens", ("num_tokens",), 128),
    ),
    bound(
        "Each chunk has at least one object, and a level occurs once",
        lambda: document("objects", (*LAST, "objects"), []),
        lambda: document("objects", (*LAST, "objects"), lambda found: [*found, found[0]]),
    ),
    bound(
        "`size_bytes` is 1 to 2^48, token positions are at most 2^48",
        lambda: document("size_bytes", (*LAST, "objects", 0, "size_bytes"), 0),
        lambda: document("size_bytes", (*LAST, "objects", 0, "size_bytes"), 2**48 + 1),
        lambda: document("num_tokens", ("num_tokens",), 2**48 + 1),
        lambda: rekeyed(r"chunks\[1\].start", 1, 2**48 + 1, 2**48 + 2),
    ),
    bound(
        "There are 1 to 4,096 windows, each from 0 to 2^32 - 1, and not all are 0",
        lambda: document("windows", ("windows",), [], of="manifest-kinds"),
        lambda: document("windows", ("windows",), [5] * 4097, of="manifest-kinds"),
        lambda: document("windows", ("windows", 0), 2**32, of="manifest-kinds"),
        lambda: document("windows", ("windows", 0), -1, of="manifest-kinds"),
        lambda: document("windows", ("windows",), [0] * 4, of="manifest-kinds"),
    ),
    bound(
        "either one object of kind `all`, or one of each kind that `windows` gives",
        lambda: document(
            "objects", (*LAST, "objects"), lambda found: found[:-1], of="manifest-kinds"
        ),
    ),
)

CODECS = (
    bound(
        "Scales are bfloat16 numbers, finite and not negative",
        lambda: array("scales", "scales", put((0, 0x7F80)), of=PACKED),
        lambda: array("scales", "scales", put((0, 0x8001)), of=PACKED),
        lambda: array("scales", "scales", put((0, 0x7F80)), of=PLAIN),
        lambda: array("scales", "scales", put((0, 0xBF80)), of=PAPER),
        lambda: array("scales", "scales", put((0, 0x7FC0)), of=TRANSFORM),
    ),
    bound(
        "steps are finite and positive, means and inverse frequencies finite",
        lambda: array("steps", "steps", put((0, 0.0)), of=PLAIN),
        lambda: array("steps", "steps", put((0, np.inf)), of=ADAPTIVE),
        lambda: array("means", "means", put((0, np.nan)), of=PLAIN),
        lambda: array("rope_frequencies", "rope_frequencies", put((0, np.nan)), of=PLAIN),
        lambda: array("rope_frequencies", "rope_frequencies", put((0, np.inf)), of=ADAPTIVE),
    ),
    bound(
        "has at most 256 tables, those of `paper` at most as many as table ids where these are",
        *(partial(own_tables, of, "supports", 257) for of in (LOSSLESS, PLAIN, ADAPTIVE)),
        partial(own_tables, PLAIN, "supports", 1 << 20),
        paper_tables,
    ),
    bound(
        "it has at most 255 rotations, of at most 10^6 radians a token, and each turns some plane",
        lambda: array("rope_shapes", "rope_shapes", lambda s: np.tile(s, (128, 1)), of=PLAIN),
        lambda: array("rope_frequencies", "rope_frequencies", put((0, 1.1e6)), of=PLAIN),
        lambda: array("rope_frequencies", "rope_frequencies", put((0, -1.1e6)), of=PLAIN),
        lambda: array("rope_of_plane", "rope_of_plane", put((0, 0)), of=PLAIN),
    ),
    bound("a substream uses at most 4,096 tables", many_tables),
    bound(
        "No entry of a stored support is zero",
        lambda: array("frequencies", "frequencies", lambda f: _moved(f, 3, 2), of=PLAIN),
    ),
    bound(
        "in blocks with escapes every table can code symbol 0",
        lambda: array("frequencies", "frequencies", lambda f: _moved(f, 0, 2), of=PLAIN),
        lambda: tensor("frequencies", "frequencies", lambda f: _moved(f, 0, 2), of="plain"),
    ),
    bound("from the first on, at most 2^20 groups", many_groups),
    bound(
        "there are no escapes: weights are within -127 to 127",
        lambda: block("escapes", escaped_weights, of=ADAPTIVE, index=2),
    ),
    bound(
        "0 <= cost <= most",
        lambda: array("distortion", "distortion", put((0, -1.0)), of=TRANSFORM),
        lambda: array("distortion", "distortion", put((1, np.inf)), of=TRANSFORM),
        lambda: array("distortion", "distortion", put((0, 1e30)), of=TRANSFORM),
        lambda: array("distortion", "distortion", put((0, np.nan)), of=TRANSFORM),
    ),
    bound(
        "or a finer one where that was needed, never a coarser one",
        lambda: array("rung", "rung", put((0, 2)), of=TRANSFORM),
    ),
    bound(
        "integers of magnitude 511 at most",
        lambda: array(
            "escapes", "escapes", lambda e: np.full(len(e), 512, np.int16), of=TRANSFORM, block=0
        ),
        lambda: array(
            "escapes", "escapes", lambda e: np.full(len(e), -512, np.int16), of=TRANSFORM, block=0
        ),
    ),
    bound("with |m q[c]| <= 32767", too_many_parts_of_a_step),
)

PROFILES = (
    bound("whose header has at most 4 MiB", _long_header),
    bound(
        "(vocabulary, features of lag j), at most 64 lags",
        lambda: more_tensors(
            "features", {f"features.{lag}": np.zeros((20, 0), np.int8) for lag in range(2, 65)}
        ),
    ),
    bound(
        "together they have as many columns as `prediction` rows, at most 4,096",
        lambda: tensor("features", "features.0", lambda f: np.zeros((20, 4097), np.int8)),
        lambda: tensor("prediction", "features.0", lambda f: f[:, :-1].copy()),
    ),
    bound(
        "`num_sinks` | uint32 (1,), at most 64",
        lambda: tensor("num_sinks", "num_sinks", put((0, 65))),
    ),
    bound(
        "`unit` | float64 (1,), 1e-30 to 1e30",
        lambda: tensor("unit", "unit", put((0, 1e-31))),
        lambda: tensor("unit", "unit", put((0, np.nan))),
    ),
    bound(
        "`strangeness` | float64 (1,), 1e-30 to 1e30",
        lambda: tensor("strangeness", "strangeness", put((0, 1e31))),
        lambda: tensor("strangeness", "strangeness", put((0, 0.0))),
    ),
    bound(
        "groups follow one another and are complete",
        lambda: tensor(r"planes.1", "planes.1", put((0, 1))),
        lambda: tensor(r"planes.1", "planes.1", lambda p: p[:0]),
        lambda: tensor(r"planes.1", "planes.1", None),
    ),
    bound(
        "no more coefficients than columns",
        lambda: more_tensors(
            "synthesis.0|analysis.0",
            {
                "synthesis.0": np.zeros((17, 16), np.float16),
                "analysis.0": np.zeros((16, 17), np.float16),
                "variances.0": np.zeros(17, np.float32),
            },
        ),
    ),
    bound(
        "`synthesis_exponents.<g>` | int8 (coefficients, columns), int8 (columns,), -24 to 9",
        lambda: tensor("exponents", "synthesis_exponents.0", put((0, 10)), of="bytes"),
        lambda: tensor("exponents", "synthesis_exponents.0", put((0, -25)), of="bytes"),
    ),
    bound(
        "`analysis_exponents.<g>` | int8 (coefficients, columns), int8 (columns,), -24 to 9",
        lambda: tensor("exponents|analysis", "analysis_exponents.0", put((0, 10)), of="bytes"),
        lambda: tensor("exponents|analysis", "analysis_exponents.0", put((0, -25)), of="bytes"),
    ),
    bound(
        "float32 (9,), float32 (1 to coefficients + 1,)",
        lambda: tensor(
            "importance.position", "importance.position", lambda i: i[:-1], of="weighted"
        ),
        lambda: tensor("importance.0", "importance.0", lambda i: i[:0], of="weighted"),
        lambda: tensor(
            "importance.0", "importance.0", lambda i: np.zeros(10, i.dtype), of="weighted"
        ),
    ),
    bound("a JSON object in which no key occurs twice", _doubled_key),
    bound(
        "keys and values of 1 to 4,096 layers; 1 to 2^24 values per token in all",
        lambda: described("planes", lambda whole: whole.update(planes=[])),
        lambda: described("planes", lambda whole: whole.update(planes=[[1, 1]] * 3)),
        lambda: described("planes", lambda whole: whole.update(planes=[[1, 1]] * 8194)),
        lambda: described("planes", lambda whole: whole.update(planes=[[0, 1]] * 2)),
        lambda: described("planes", lambda whole: whole.update(planes=[[2**12, 2**12], [1, 1]])),
        lambda: described("planes", lambda whole: whole.update(planes=[[-1, -1], [1, 1]])),
    ),
    bound(
        "over the values they hold, above 0",
        lambda: described("levels", quality("bits_per_value", 0)),
    ),
    bound(
        "the standard error of `rel_ppl`, at least 0",
        lambda: described("levels", quality("rel_ppl_error", -0.1)),
    ),
    bound(
        "`long`: their `num_tokens`, 1 to 2^32 - 1",
        *(partial(described, "levels", long_contexts(number)) for number in (0, -1, 2**32)),
    ),
    bound(
        "All numbers are finite",
        lambda: described("profile", quality("kl", float("nan"))),
        lambda: described("profile", quality("top1", float("inf"))),
        lambda: tensor("variances|synthesis", "variances.0", put((0, np.inf))),
        lambda: tensor("group_means|means", "group_means.0", put((0, np.nan))),
    ),
    bound(
        "There are at most 256 levels",
        lambda: described(
            "levels",
            levels(lambda all_: all_.extend(all_[0] | {"name": f"l{i}"} for i in range(256))),
        ),
    ),
    bound(
        "Their names are distinct, of 1 to 64 characters `[a-z0-9_-]`, and none is",
        lambda: described("levels", levels(lambda all_: all_.append(all_[0]))),
        *(
            partial(described, "levels", named(name))
            for name in ("", "a" * 65, "Low", "text", "adaptive", "packed", "lossless", "raw")
        ),
    ),
    bound(
        "in float32, and must be finite and positive",
        lambda: described("levels", levels(lambda all_: all_[0].update(step=0))),
        lambda: described("levels", levels(lambda all_: all_[0].update(step=-1))),
        lambda: described("levels", levels(lambda all_: all_[0].update(step=1e60))),
        lambda: tensor("steps", "steps", put((0, 0)), of="plain"),
    ),
)

BOUNDS = HEADER + ARRAYS + BLOCKS + MANIFESTS + CODECS + PROFILES

# What sounds like a bound: a sentence with such words must be covered, or named below.
BOUND = re.compile(
    r"at most|at least|no more|exceeds?\b|\bbeyond\b|less than|\bfewer|\bwithin\b|multiple of"
    r"|\b(?:below|above) \d|\bfinite|\bpositive|negative|\bdistinct\b|without (?:gaps|repetition)"
    r"|ascending|\d to \d|\d to -|[<>]= |\bexactly\b|\bmust\b|sums? to \d|no [a-z ]+ than "
)

# Phrases that no reader can check: what encoders do, what follows from something else, names.
OTHERS = {
    "what arrays hold": (
        "their symbols, in ascending order of coefficient",
        "and a block has the rows of its class in ascending order",
        "by the highest bit of their multipliers, 1, 2 to 3, ... 32 to 63",
        "before the chunk's first token or the id is beyond the vocabulary",
        "then zeros up to a multiple of the chunk's coefficients",
        "which of the model's layers the chunk holds",
    ),
    "identities are computed, not read": ("n tokens, n at least 1: where n is a multiple of 64",),
    "what writers store": (
        "contexts that were stored in it must be saved again",
        "every multiple of 64 at which a chunk ends",
        "under that of the last multiple of 64 inside a partial tail chunk",
        "which would promise more than it holds",
        "by which the model differs from itself after changes below",
    ),
    "arithmetic": (
        "Symbols decode exactly everywhere",
        "x 128 <= (2^31 - num_active x 16384 - features x 128) x scale",
        "x 128 <= (2^31 - R x square root of the sum over c of s[c]^2 - features x 128) x scale",
        "and no |a[c]| or |p[i]| exceeds 32767 x scale A, P",
        "no |a[c]| or |p[i]| exceeds 32767 x scale, and M does not exceed 127 x 2^8 x scale",
        "for each column, for which M does not exceed 127 x unit x scale",
        "No sum overflows as long as the sum over c of (m q[c] / s[c])^2 is at most R^2",
        "rounding is off by at most half, in the tail by at most the larger of that",
        "An encoder uses no rung for which a token is beyond that",
        "so the error is at most half a scale, and codes stay within -127 to 127".replace(
            "so", "So", 1
        ),
    ),
    "encoders": (
        "the least bfloat16 that is not below",
        "So values within 0.55 steps of the mean become the mean, and no error exceeds 0.55 steps",
        "a table for every 32,768 symbols or so, at most 64",
        "so no error exceeds 0.55 steps, whatever the weights",
        "with the sign, at most 100",
        "where a pair of dimensions turns by less than 2^-6 radians a token",
        "the octaves by which it is slower, rounded, 12 at most",
        "and of the energy beyond the coded ones",
        "of each group at most the first 512",
        "or a layer holds fewer tokens, the chunk is coded by `adaptive`",
        "(nothing is measured where a layer holds fewer tokens)",
        "within -12 and 12",
        "log2 at most 8",
        "within -4 and 4",
        "at least ln 0.001",
        "The multiplier is 8 / root of w, rounded, 1 to 63",
        "beyond its class's active coefficients exceed twice",
        "a class of fewer than 16 tokens",
        "Where the cost exceeds the bound, all multipliers are divided by 1.05 times the root of "
        "their ratio before they are rounded, twice at most and by 1.5 at most",
        "at coarser levels it is less than KL",
        "so that scaled values are within -1 to 1",
        "tables have margins of 3 symbols beyond what was profiled",
        "weights whose sum is more than the larger of 1,536",
    ),
    "a reader's own limit": ("A reader may refuse what would take much more memory",),
}


def padding_of_the_header() -> Broken:
    data = golden(f"{PACKED}.cgkv")
    stop = table_of(data) + 24 * int.from_bytes(data[12:16], "little")
    assert stop % 8
    return header("padding", stop, "B", 1)


def padding_of_an_array() -> Broken:
    data = golden(f"{PACKED}.cgkv")
    assert int.from_bytes(data[table_of(data) + 28 : table_of(data) + 32], "little") % 8
    return header("codes", len(data) - 1, "B", 1)


def _moved(frequencies: np.ndarray, from_: int, to: int) -> np.ndarray:
    """All of one frequency of the first table is another's."""
    changed = frequencies.copy()
    changed[to] += changed[from_]
    changed[from_] = 0
    return changed


def spans(phrase: str) -> list[tuple[int, int]]:
    found = [(m.start(), m.end()) for m in re.finditer(re.escape(phrase), FORMAT)]
    assert found, f"FORMAT.md does not say: {phrase}"
    return found


def test_every_bound_of_the_format_is_here():
    """Whoever writes a bound into FORMAT.md adds what breaks it to the table above."""
    phrases = [one.phrase for one in BOUNDS] + [one for many in OTHERS.values() for one in many]
    covered = [span for phrase in phrases for span in spans(phrase)]
    missed = [
        FORMAT[max(0, m.start() - 60) : m.end() + 40]
        for m in BOUND.finditer(FORMAT)
        if not any(first <= m.start() and m.end() <= stop for first, stop in covered)
    ]
    assert missed == []


CASES = [(one.phrase, make) for one in BOUNDS for make in one.breaking]


@pytest.mark.parametrize("make", [make for _, make in CASES], ids=[phrase for phrase, _ in CASES])
def test_what_breaks_a_bound_is_refused(make):
    broken = make()
    with pytest.raises(BitstreamError) as caught:
        broken.read()
    assert re.search(broken.field, caught.value.field), caught.value
