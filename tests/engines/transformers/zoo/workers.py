"""Architectures examined in processes of their own, so that one that crashes ends nothing else."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing.connection import Connection
from queue import SimpleQueue

from tests.engines.transformers.zoo.outcome import WRONG, Outcome, examine

_LIMIT_S = 120.0


class _Worker:
    """A process that examines one architecture after the other."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def examine(self, name: str) -> Outcome | None:
        """None where the process died or took too long; it can no longer be used then."""
        try:
            self._pipe.send(name)
            return Outcome(**self._pipe.recv()) if self._pipe.poll(_LIMIT_S) else None
        except (EOFError, OSError):
            return None

    def stop(self) -> None:
        self._process.kill()
        self._process.join()


def outcomes(names: Sequence[str], *, processes: int) -> Iterator[Outcome]:
    """Examine architectures; as each is done."""
    idle: SimpleQueue[_Worker] = SimpleQueue()
    for _ in range(min(processes, len(names))):
        idle.put(_Worker())
    with ThreadPoolExecutor(processes) as threads:
        for done in as_completed([threads.submit(_examined, name, idle) for name in names]):
            yield done.result()
    while not idle.empty():
        idle.get().stop()


def _examined(name: str, idle: SimpleQueue[_Worker]) -> Outcome:
    worker = idle.get()
    found = worker.examine(name)
    if found is None:
        worker.stop()
        worker = _Worker()
        found = Outcome(name, WRONG, f"crashed, or took longer than {_LIMIT_S:.0f} s")
    idle.put(worker)
    return found


def _serve(pipe: Connection) -> None:
    _be_quiet()
    while True:
        pipe.send(asdict(examine(pipe.recv())))


def _be_quiet() -> None:
    """One thread, no advice, no measurements kept among the user's."""
    import torch
    import transformers

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
