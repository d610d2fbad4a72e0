"""How a chunk's bound is kept: by how much finer steps, after how many attempts, for how many bits.

    .venv/bin/python benchmarks/rate_bounds.py --model DIR --data DIR [--windows N]

Chunks of text that was not learned from are coded at the default level of the model's profile.
`attempts`: what a chunk loses has to fall to a share of what it loses at the level's own steps;
rows say, for margins over what theory asks for, how many chunks kept it at the second attempt, at
the third and later, how much finer their steps were, and how much of the bound was used.
`finer`: what steps finer by so much cost and lose, beside the next level's own. Rows are appended
to benchmarks/results/rate_bounds.csv.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

from cachegen.cli.models import PROFILE, load_model
from cachegen.codec.profile import Profile, read_profile
from cachegen.codec.transform.analysis import Analysed, analyse
from cachegen.codec.transform.level import TransformLevel
from cachegen.codec.transform.rung import encode_blocks
from cachegen.engines.transformers.cache import capture
from record import append

MARGINS, SHARES = (1.0, 1.02, 1.05, 1.1, 1.2), (0.9, 0.7, 0.5)
FINER = (1.0, 1.25, 1.5, 2.0, 3.0)
_ATTEMPTS = 6
Figure = dict[str, object]


def main() -> None:
    options = _options()
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from rate.models import divided, held_out

    model, tokenizer = load_model(options.model)
    profile = read_profile(options.model / PROFILE)
    texts = divided(tokenizer, options.data)
    windows = held_out(tokenizer, options.data, texts, count=options.windows)
    contexts = [window.context for own in windows.values() for window in own]
    assert profile.transform is not None
    chunks = [
        analyse(capture(model, tokens), tokens, profile.transform, profile.rope)
        for tokens in contexts
    ]
    run = int(time.time())
    for row in [*_attempts(chunks, profile), *_finer(chunks, profile)]:
        print(*(f"{name}={value}" for name, value in row.items()), flush=True)
        append("rate_bounds", [{"run": run, "model": options.model.name, **row}])


def _attempts(chunks: Sequence[Analysed], profile: Profile) -> Iterator[Figure]:
    level = _rung(profile, 0)
    for margin in MARGINS:
        for share in SHARES:
            found = [_kept(chunk, level, margin, share) for chunk in chunks]
            counts = [attempts for attempts, _, _ in found]
            yield {
                "of": "attempts",
                "margin": margin,
                "share": share,
                "lost": None,
                "chunks": len(chunks),
                "kept_at_second": counts.count(2),
                "kept_at_third": counts.count(3),
                "kept_later": sum(3 < count <= _ATTEMPTS for count in counts),
                "finer": max(finer for _, finer, _ in found),
                "bound_used": mean(used for _, _, used in found),
                "bits_per_value": None,
            }


def _kept(
    chunk: Analysed, level: TransformLevel, margin: float, share: float
) -> tuple[int, float, float]:
    """Attempts until so much less is lost, how much finer steps are, and how much of it is lost."""
    finer, quantised = 1.0, level.quantiser.quantise(chunk)
    most = share * quantised.distortion
    for attempt in range(2, _ATTEMPTS + 1):
        finer *= margin * math.sqrt(quantised.distortion / most)
        quantised = level.quantiser.quantise(chunk, finer=finer)
        if quantised.distortion <= most:
            return attempt, finer, quantised.distortion / most
    return _ATTEMPTS + 1, finer, quantised.distortion / most


def _finer(chunks: Sequence[Analysed], profile: Profile) -> Iterator[Figure]:
    values = sum(plane.width for plane in profile.geometry.planes)
    for rung, finer in [*((0, one) for one in FINER), (1, 1.0)]:
        level = _rung(profile, rung)
        found = [level.quantiser.quantise(chunk, finer=finer) for chunk in chunks]
        words = sum(
            block.words.nbytes
            for quantised in found
            for block in encode_blocks(quantised, level, threads=2)
        )
        rows = sum(chunk.num_rows for chunk in chunks)
        yield {
            "of": "finer" if rung == 0 else "next level",
            "margin": None,
            "share": None,
            "lost": mean(quantised.distortion for quantised in found),
            "chunks": len(chunks),
            "kept_at_second": None,
            "kept_at_third": None,
            "kept_later": None,
            "finer": finer,
            "bound_used": None,
            "bits_per_value": 8 * words / rows / values,
        }


def _rung(profile: Profile, above: int) -> TransformLevel:
    """The default level, or one so much better."""
    names = [level.name for level in profile.levels]
    return profile.rung(names.index(profile.default_level) + above)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="folder of a calibrated model")
    parser.add_argument("--data", type=Path, required=True, help="as for rate_quality.py --model")
    parser.add_argument("--windows", type=int, default=2, help="in each domain")
    return parser.parse_args()


if __name__ == "__main__":
    main()
