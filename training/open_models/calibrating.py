"""Profiles of the models, by the command that everybody else would give."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from cachegen.cli.models import PROFILE, load_network, load_tokenizer
from training.open_models.texts import write_texts

_CALIBRATE = ("-m", "cachegen.cli", "calibrate")
# The profile, what a calibration that was cut off keeps, and what it told.
_MADE = ("", ".partial", ".log")


def calibrate(folder: Path, data: Path, texts: Path) -> None:
    """The profile of a model into its folder, unless its own is there.

    What lies beside the weights is moved to its place first, and a half-done calibration goes on.

    Args:
        folder: of the model.
        data: see `check_data`.
        texts: folder for the files that the command reads.

    Raises:
        ValueError: the command failed.
    """
    profile = folder / PROFILE
    profile.parent.mkdir(exist_ok=True)
    _move_from_beside_the_weights(profile)
    if _is_profile_of(profile, folder):
        print(f"{profile} is there; remove it to calibrate again", file=sys.stderr)
        return
    tokenizer = load_tokenizer(folder)
    files = write_texts(data, texts, lambda text: _num_tokens(tokenizer, text))
    options = ["--model", str(folder)]
    options += [part for name, path in files.items() for part in ("--text", f"{name}={path}")]
    options += ["--output", str(profile)]
    print(" ".join(["cachegen calibrate", *options]), file=sys.stderr)
    command = [sys.executable, *_CALIBRATE, *options]
    returned = subprocess.run(command, check=False).returncode
    if returned:
        raise ValueError(
            f"{folder.name}: calibration ended with status {returned}; what it said is above, and "
            "the same command goes on from what it kept"
        )


def _move_from_beside_the_weights(profile: Path) -> None:
    for end in _MADE:
        place = profile.with_name(profile.name + end)
        beside = profile.parent.parent / place.name
        if beside.exists() and not place.exists():
            beside.rename(place)
            print(f"moved {beside} to {place}", file=sys.stderr)


def _is_profile_of(profile: Path, folder: Path) -> bool:
    """Whether it is there and belongs to the model as this version knows it."""
    if not profile.is_file():
        return False
    from cachegen.codec.profile import read_profile
    from cachegen.engines.transformers import fingerprint

    return read_profile(profile).fingerprint == fingerprint(load_network(folder))


def _num_tokens(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False).input_ids)
