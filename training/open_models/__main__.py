"""Open models into a folder outside the checkout: `make models`.

    python -m training.open_models [smollm2] [qwen] [--to DIR] [--calibrate --data DIR]

What is done is not done again; a run that was cut off goes on when it is started again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import platformdirs

from cachegen.cli.output import Display, progress_bar
from training.open_models.calibrating import calibrate
from training.open_models.converting import check_packages, convert, is_made
from training.open_models.downloading import fetch
from training.open_models.recipes import RECIPES, Recipe
from training.open_models.texts import check_data
from training.open_models.whole import alone_in


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status; errors are one line on standard error."""
    options = _options(arguments)
    chosen = [one for one in RECIPES if not options.names or one.name in options.names]
    try:
        if options.calibrate:
            check_data(options.data)
        check_packages()
        with alone_in(options.to):
            make_all(chosen, options.to)
            for recipe in chosen if options.calibrate else ():
                texts = options.to / "texts" / recipe.name
                calibrate(options.to / recipe.name, options.data, texts)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted: the same command goes on from what is done.", file=sys.stderr)
        return 130
    return 0


def make_all(recipes: Sequence[Recipe], folder: Path) -> None:
    """Every model in a folder of its name.

    Raises:
        ValueError: what came, or what is there, is not what it should be.
    """
    with progress_bar(quiet=False) as display:
        display.begin("look for what is there")
        for recipe in recipes:
            _make(recipe, folder, display)


def _make(recipe: Recipe, folder: Path, display: Display) -> None:
    place, downloads = folder / recipe.name, folder / "downloads" / recipe.name
    display.update(f"{recipe.name}: check")
    if not is_made(recipe, place):
        gguf = fetch(recipe, downloads, display)
        display.update(f"{recipe.name}: convert")
        convert(recipe, gguf, place)
    shutil.rmtree(downloads, ignore_errors=True)
    display.tell(f"{recipe.title} ({recipe.licence}): {place}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.open_models", description=__doc__)
    known = [recipe.name for recipe in RECIPES]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}")
    default = platformdirs.user_cache_path("cachegen") / "models"
    parser.add_argument("--to", type=Path, default=default, help=f"default: {default}")
    parser.add_argument("--calibrate", action="store_true", help="make their profiles too")
    parser.add_argument("--data", type=Path, help="texts to calibrate with")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(known))
    if unknown:
        parser.error(f"expected names of {', '.join(known)}; got {', '.join(unknown)}")
    return options


if __name__ == "__main__":
    raise SystemExit(main())
