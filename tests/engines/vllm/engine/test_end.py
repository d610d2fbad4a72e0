"""What an engine leaves behind in its process: nothing."""

from __future__ import annotations

import gc
import threading
import time
import weakref

from tests.engines.vllm.engine.served import PATIENT, served
from tests.engines.vllm.engine.tiny import prompt


def ours() -> set[threading.Thread]:
    return {one for one in threading.enumerate() if one.name.startswith("cachegen-vllm")}


def test_threads_end_and_the_cache_is_let_go(model: str, tmp_path) -> None:
    from vllm.distributed.kv_transfer import get_kv_transfer_group

    before = ours()
    with served(model, {"store": str(tmp_path), "chunk_tokens": 128, **PATIENT}) as engine:
        engine([prompt(300, 5)])
        engine.settle()
        assert engine.counts()["tokens_saved"] == 256
        work = weakref.ref(get_kv_transfer_group()._work)
        assert work() is not None and ours() > before
    deadline_s = time.monotonic() + 60
    while ours() - before:
        assert time.monotonic() < deadline_s, ours() - before
        time.sleep(0.05)
    gc.collect()
    assert work() is None
