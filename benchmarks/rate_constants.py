"""Bits and KL with tuned constants as they are, and with other values in their places.

    .venv/bin/python benchmarks/rate_constants.py [--windows N] [--contexts N] [--only NAME]
    .venv/bin/python benchmarks/rate_constants.py --model DIR --data DIR [--windows N]

Without `--model` the shipped model is learned again for every value of what calibration goes by;
the figure is the bits per value at a KL of 0.003. Then, or with it alone, the constants of encoding
are tried on the model's own profile: bits and KL at its default level (or at `adaptive`, or
`lossless`), or its noise floor, of text that was not learned from; of the shipped model also of
text unlike any. How a level's bound is kept is measured by rate_bounds.py. Rows are printed as they
come and appended to benchmarks/results/rate_constants.csv.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import torch

from cachegen import refmodel
from cachegen.cli.models import PROFILE, load_model, load_network
from cachegen.codec.levels import LOSSLESS, UNCALIBRATED_DEFAULT
from cachegen.codec.profile import read_profile, shipped_profile
from cachegen.engines.transformers.identity.fingerprint import fingerprint
from cachegen.engines.transformers.learning import token_features
from cachegen.engines.transformers.quality import as_dtype, evaluator, noise_floor
from cachegen.engines.transformers.rope import rope_map
from cachegen.engines.transformers.tasks import first_tokens
from cachegen.engines.transformers.text_windows import Window
from cachegen.evaluation.coder import Coder
from cachegen.evaluation.methods.presets import adaptive_coder, profile_coder
from rate.ablation import configured_coders, path
from rate.constants import CODED, HALF_TOLD, LEARNED, NOISE_FLOOR, Constant, named
from rate.curves import bits_at, of
from rate.hostile import INPUTS, window
from rate.measure import Row, evaluators, measure, measure_all
from rate.texts import CONTINUATION_TOKENS, domains, learning_samples
from record import append

TARGET_KL = 0.003
# Of the hostile inputs those that are nearest to a text.
_UNLIKE = ("base64", "source code")
Found = TypeVar("Found")
Figure = dict[str, object]


def main() -> None:
    options = _options()
    run = int(time.time())
    for row in chain(() if options.model else _learned(options), _coded(options)):
        print(*(f"{name}={value}" for name, value in row.items()), flush=True)
        append("rate_constants", [{"run": run, **row, "windows": options.windows}])


def _learned(options: argparse.Namespace) -> Iterator[Figure]:
    """Every value of what calibration goes by."""
    wanted = named(LEARNED, options.only)
    if not wanted:
        return
    model, tokenizer = load_model(refmodel.weights_path())
    found = domains(tokenizer, num_windows=options.windows, num_tasks=1, data=None)
    judges = evaluators(model, found.windows)
    configuration = path(model.config.num_hidden_layers)[-1]
    vocabulary = len(model.get_input_embeddings().weight)

    def measured(method: str) -> list[Row]:
        samples = learning_samples(
            model, tokenizer, count=options.contexts, continuation_tokens=CONTINUATION_TOKENS
        )
        told = vocabulary // 2 if method == HALF_TOLD else vocabulary
        with configuration.rounding():
            features = token_features(model, prefix=first_tokens(tokenizer), most_tokens=told)
            coders = configured_coders(configuration, samples, rope_map(model), features)
            return [row for every in measure_all(coders, judges) for row in every]

    for constant, value, rows in _trials(wanted, measured):
        for domain in judges:
            bits = bits_at(of(rows, configuration.name, domain), TARGET_KL)
            yield _figure("reference", constant, value, domain, bits, TARGET_KL)


def _coded(options: argparse.Namespace) -> Iterator[Figure]:
    """Every value of what encoding goes by; the shipped model's tokens all weigh the same."""
    wanted = named(CODED, options.only)
    if options.model is None:
        wanted = tuple(one for one in wanted if one.method != "transform")
    if not wanted:
        return
    bench = _bench(options)
    judges = evaluators(bench.wide, bench.windows)

    def measured(method: str) -> list[tuple[str, float | None, float]]:
        if method == NOISE_FLOOR:
            judge = evaluator(bench.wide, bench.windows)
            kl = noise_floor(judge, bench.model, most_windows=options.windows)
            return [("least", None, kl)]
        rows = measure(_coder(method, bench.profile, bench.wide), judges)
        return [(row.domain, row.bits_per_value, row.kl) for row in rows]

    for constant, value, found in _trials(wanted, measured):
        for domain, bits, kl in found:
            yield _figure(bench.name, constant, value, domain, bits, kl)


@dataclass(frozen=True, slots=True)
class _Bench:
    """A calibrated model.

    Attributes:
        name: of the model.
        model: in its own dtype.
        wide: the same in float32.
        profile: the file's bytes.
        windows: by domain, what is measured on.
    """

    name: str
    model: Any
    wide: Any
    profile: bytes
    windows: dict[str, list[Window]]


def _bench(options: argparse.Namespace) -> _Bench:
    folder = options.model or refmodel.weights_path()
    (model, tokenizer), wide = load_model(folder), load_network(folder, dtype="float32")
    if options.model is None:
        unlike = {"unlike": [window(INPUTS[name], tokenizer, 0) for name in _UNLIKE]}
        profile = shipped_profile(fingerprint(model))
        assert profile is not None
        found = domains(tokenizer, num_windows=options.windows, num_tasks=1, data=None)
        return _Bench("reference", model, wide, profile.file_bytes, found.windows | unlike)
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from rate.models import divided, held_out

    texts = divided(tokenizer, options.data)
    windows = held_out(tokenizer, options.data, texts, count=options.windows)
    return _Bench(folder.name, model, wide, (folder / PROFILE).read_bytes(), windows)


def _coder(method: str, data: bytes, model: Any) -> Coder:
    """The coder of a method, made anew, for caches of float32."""
    profile = read_profile(data)
    dtype = profile.geometry.dtype
    if method == "adaptive":
        coder = adaptive_coder(rope_map(model), UNCALIBRATED_DEFAULT)
    else:
        level = LOSSLESS if method == "lossless" else profile.default_level
        coder = profile_coder("transform", profile, level)
    return replace(
        coder,
        encode=lambda kv, tokens: coder.encode(as_dtype(kv, dtype), tokens),
        decode=lambda data, tokens: as_dtype(coder.decode(data, tokens), torch.float32),
    )


def _trials(
    constants: tuple[Constant, ...], measured: Callable[[str], Found]
) -> Iterator[tuple[Constant, float, Found]]:
    """What is measured with every value; with the own ones once for each method."""
    as_it_is = cache(measured)
    for constant in constants:
        assert constant.own in constant.values, constant
        for value in constant.values:
            if value == constant.own:
                yield constant, value, as_it_is(constant.method)
            else:
                with constant.set_to(value):
                    found = measured(constant.method)
                yield constant, value, found


def _figure(
    model: str, constant: Constant, value: float, domain: str, bits: float | None, kl: float
) -> Figure:
    return {
        "model": model,
        "constant": f"{constant.module.removeprefix('cachegen.')}.{constant.name}",
        "value": value,
        "is_own": value == constant.own,
        "domain": domain,
        "bits_per_value": bits,
        "kl": kl,
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--windows", type=int, default=4, help="in each domain")
    parser.add_argument("--contexts", type=int, default=24, help="to learn from")
    parser.add_argument("--model", type=Path, help="folder of a calibrated model; needs --data")
    parser.add_argument("--data", type=Path, help="texts, as for rate_quality.py --model")
    parser.add_argument(
        "--only", action="append", default=[], help="name of a constant; repeatable"
    )
    options = parser.parse_args()
    if options.model and not options.data:
        parser.error("--model needs --data")
    return options


if __name__ == "__main__":
    main()
