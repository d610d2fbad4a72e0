"""Which files of the package a context passes through, saved and loaded: `python -m tests.walk`.

The cache of the shipped model, with its profile, is saved into a folder at the levels that are
stored by default, and loaded from there. Every file of the package in which a function runs
meanwhile counts; what is done once in a process does not, nor what an engine does before and after.
CONTRIBUTING.md has the numbers.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

from transformers import AutoModelForCausalLM, AutoTokenizer

import cachegen
from cachegen.codec.profile import read_profile
from cachegen.cores import available_cores
from cachegen.engines.transformers import capture
from cachegen.kvcache import KVCache
from cachegen.loading.resources import decoder
from cachegen.refmodel import load_text, profile_path, weights_path

PACKAGE = Path(cachegen.__file__).parent
NUM_TOKENS = 600
# Run in the decoder's threads by what begins to look into them.
OWN = {"DecoderThreads._done", "DecoderThreads.submit.<locals>.<lambda>"}


@contextmanager
def files_run() -> Iterator[set[str]]:
    """The files whose functions are called within, in any thread that begins there."""
    found: set[str] = set()
    root = str(PACKAGE)

    def look(frame: FrameType, event: str, _: object) -> None:
        name = frame.f_code.co_filename
        function = frame.f_code.co_qualname
        if event == "call" and name.startswith(root) and function not in {"<module>", *OWN}:
            found.add(str(Path(name).relative_to(PACKAGE)))

    threading.setprofile(look)
    _in_decoder_threads(lambda: sys.setprofile(look))
    sys.setprofile(look)
    try:
        yield found
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        _in_decoder_threads(lambda: sys.setprofile(None))


def _in_decoder_threads(work: Callable[[], None]) -> None:
    """Do it in each of the threads that decode, which outlive a load."""
    count = max(available_cores() // 2, 1)
    barrier = threading.Barrier(count + 1)

    def wait_and_work() -> None:
        barrier.wait()
        work()

    for _ in range(count):
        decoder().submit(wait_and_work)
    barrier.wait()


def walk(work: Callable[[], object]) -> list[str]:
    """The files of one piece of work."""
    with files_run() as found:
        work()
    return sorted(found)


def walks(kv: KVCache, tokens: Sequence[int]) -> tuple[list[str], list[str]]:
    """Of saving a cache, and of loading it, when both were done before."""
    profile = read_profile(profile_path().read_bytes())
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            store = cachegen.open_store(folder)
            known = {"tokens": tokens, "store": store, "fingerprint": profile.fingerprint}
            saved = walk(partial(cachegen.save, kv, profile=profile, **known))
            loaded = walk(partial(cachegen.load, profile=profile, **known))
    return saved, loaded


def shipped_context() -> tuple[KVCache, list[int]]:
    """A cache of the shipped model, and its tokens."""
    model = AutoModelForCausalLM.from_pretrained(weights_path(), dtype="auto").eval()
    tokenizer = AutoTokenizer.from_pretrained(weights_path())
    tokens = tokenizer(load_text("heldout-craik")[:8000]).input_ids[:NUM_TOKENS]
    return capture(model, tokens), tokens


def main() -> None:
    """Print both walks."""
    for name, files in zip(("save", "load"), walks(*shipped_context()), strict=True):
        print(f"{name}: {len(files)} files")
        print("\n".join(f"    {file}" for file in files))


if __name__ == "__main__":
    main()
