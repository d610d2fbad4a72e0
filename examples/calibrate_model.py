"""A profile for a model: calibrated in seconds on very little text, then read.

    python examples/calibrate_model.py

`save_context(..., profile=read_profile(FILE))` codes with it; `load_context` finds it in the store.

With so few and short samples only the way is shown: for a profile that is worth having leave the
options of QUICK away, and give texts like those that will be stored.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from cachegen import Profile, read_profile
from cachegen.refmodel import load_text, weights_path

QUICK = ["--preset", "plain", "--context-tokens", "128", "--num-samples", "4", "--num-windows", "1"]


def calibrate(folder: Path) -> Profile:
    """Run the command; every text is a domain, and a level is as good as in its worst one."""
    command = [sys.executable, "-m", "cachegen.cli", "calibrate", "--model", str(weights_path())]
    for name in ("craik", "python"):
        text = folder / f"{name}.txt"
        text.write_text(load_text(f"heldout-{name}")[:9_000], encoding="utf-8")
        command += ["--text", str(text)]
    output = folder / "profile.safetensors"
    subprocess.run([*command, *QUICK, "-o", str(output)], check=True, stdout=subprocess.DEVNULL)
    return read_profile(output)


def show(profile: Profile) -> None:
    """What every level costs, and what it does to the model's predictions."""
    print("level     domain   bits/value  KL, nats/token  same next token")
    for level in profile.levels:
        for domain, found in level.domains.items():
            name = f"{level.name:9} {domain:8}"
            print(f"{name} {found.bits_per_value:10.2f} {found.kl:15.5f} {found.top1:16.0%}")
    print(f"default level: {profile.default_level}")
    print(f"chunks name the profile they were coded with: {profile.hash.hex()[:16]}...")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        show(calibrate(Path(scratch)))
