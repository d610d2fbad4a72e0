"""A trace replayed against a server, each request at its time."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from serving.client import Client, Timed


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of it.

    Attributes:
        times: of all requests that were answered.
        failures: requests that were not.
        seconds: from the first request to the last answer.
    """

    times: list[Timed]
    failures: int
    seconds: float


def replay(
    client: Client, prompts: Sequence[Sequence[int]], outputs: Sequence[int], when: Sequence[float]
) -> Replayed:
    """Ask every prompt at its time, whether earlier ones are answered or not."""
    times: list[Timed] = []
    failed: list[str] = []
    began_s = time.perf_counter()

    def ask(number: int) -> None:
        time.sleep(max(began_s + when[number] - time.perf_counter(), 0.0))
        try:
            times.append(client.time(prompts[number], max_tokens=outputs[number]))
        except (OSError, RuntimeError) as error:
            failed.append(str(error))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Replayed(times, len(failed), time.perf_counter() - began_s)
