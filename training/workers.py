"""Worker processes that share a model: gradients and updates are jobs, taken from one queue.

Each worker computes on one thread and takes the next job when it is free, so a core that other
programs use slows the run by its share only; threads that meet at every operation would all wait.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import Tensor, nn

Gradient = Callable[[nn.Module, Any], Tensor]
Update = Callable[[Any, list[Tensor]], None]


@dataclass(frozen=True, slots=True)
class Pool:
    """Running workers, and for each the gradients that it fills."""

    jobs: "SimpleQueue[tuple[str, Any]]"
    results: "SimpleQueue[list[float]]"
    gradients: list[list[Tensor]]


def start_pool(model: nn.Module, num_workers: int, *, gradient: Gradient, update: Update) -> Pool:
    """Fork the workers: `gradient` gives a loss to go back from, `update` changes parameters."""
    context = mp.get_context("fork")
    model.share_memory()
    gradients = [
        [torch.zeros_like(p).share_memory_() for p in model.parameters()]
        for _ in range(num_workers)
    ]
    pool = Pool(context.SimpleQueue(), context.SimpleQueue(), gradients)
    for mine in gradients:
        args = (pool, model, mine, gradient, update)
        context.Process(target=_work, args=args, daemon=True).start()
    return pool


def run_jobs(pool: Pool, kind: str, payloads: Sequence[Any]) -> list[list[float]]:
    """Do all the jobs; the order of the results is that of completion."""
    for payload in payloads:
        pool.jobs.put((kind, payload))
    return [pool.results.get() for _ in payloads]


def collect_gradients(pool: Pool, model: nn.Module) -> None:
    """Sum the workers' gradients into the first worker's, which become the model's."""
    first, *others = pool.gradients
    for index, param in enumerate(model.parameters()):
        for other in others:
            first[index] += other[index]
            other[index].zero_()
        param.grad = first[index]


def _work(
    pool: Pool, model: nn.Module, mine: list[Tensor], gradient: Gradient, update: Update
) -> None:
    torch.set_num_threads(1)
    for param, grad in zip(model.parameters(), mine, strict=True):
        param.grad = grad
    while True:
        kind, payload = pool.jobs.get()
        if kind == "gradient":
            result = gradient(model, payload)
            result[0].backward()
            pool.results.put(result.tolist())
        else:
            update(payload, pool.gradients[0])
            pool.results.put([])
