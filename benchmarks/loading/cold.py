"""The first load of a new process, as a program: asked on stdin, answered on stdout, in JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from functools import partial

from cachegen import refmodel
from cachegen.cli.models import load_model
from cachegen.codec.profile import read_profile
from cachegen.engines.transformers import capture, fingerprint
from cachegen.loading.load import load
from cachegen.store import open_store
from loading.methods import timed


def main() -> None:
    asked = json.load(sys.stdin)
    model, _ = load_model(refmodel.weights_path())
    result = load(
        asked["tokens"],
        store=open_store(asked["url"]),
        profile=read_profile(refmodel.profile_path()),
        recompute=partial(capture, model),
        fingerprint=fingerprint(model),
    )
    print(json.dumps(asdict(timed(result))))


if __name__ == "__main__":
    main()
