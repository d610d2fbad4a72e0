"""One training step: gradients over micro-batches, then updates; by workers or in place."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from muon import muon_step, same_shape_chunks
from presets import Preset
from samples import ANSWER, TEXT, Sampler, Stage
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from workers import Pool, collect_gradients, run_jobs, start_pool

ANSWER_WEIGHT = 4.0


def losses(model: nn.Module, ids: Tensor, kinds: Tensor) -> Tensor:
    """The loss to minimise, that of text, that of answers; ids and kinds: (batch, length + 1)."""
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits.float()
    each = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    text, answer = ((kinds[:, 1:].flatten() == kind).float() for kind in (TEXT, ANSWER))
    parts = (text + ANSWER_WEIGHT * answer, text, answer)
    return torch.stack([(each * part).sum() / part.sum().clamp(min=1) for part in parts])


@dataclass(slots=True)
class Learner:
    """A model with the state of its optimisers: momenta for the matrices, AdamW for the rest."""

    model: nn.Module
    preset: Preset
    sampler: Sampler
    params: list[Tensor] = field(init=False)
    matrices: list[int] = field(init=False)
    momenta: dict[int, Tensor] = field(init=False)
    adam: torch.optim.AdamW = field(init=False)
    pool: Pool | None = None

    def __post_init__(self) -> None:
        self.params = list(self.model.parameters())
        inside = {id(p) for p in self.model.model.layers.parameters() if p.ndim == 2}
        self.matrices = [i for i, p in enumerate(self.params) if id(p) in inside]
        others = [p for p in self.params if id(p) not in inside]
        self.adam = torch.optim.AdamW(
            others, lr=self.preset.adam_lr, betas=(0.9, 0.95), weight_decay=0.0
        )
        self.momenta = {i: torch.zeros_like(self.params[i]) for i in self.matrices}

    def start_workers(self, num_workers: int) -> None:
        for momentum in self.momenta.values():
            momentum.share_memory_()
        compiled = torch.compile(losses)

        def gradient(model: nn.Module, payload: Any) -> Tensor:
            return compiled(model, *draw(self, *payload))

        def update(payload: Any, grads: list[Tensor]) -> None:
            update_matrices(self, grads, *payload)

        self.pool = start_pool(self.model, num_workers, gradient=gradient, update=update)


def draw(learner: Learner, stage: Stage, seed: str) -> tuple[Tensor, Tensor]:
    """Tokens and kinds of a micro-batch; the same seed gives the same batch."""
    count = max(1, learner.preset.micro_batch_tokens // stage.length)
    batch = learner.sampler.batch(stage, seed=seed, num_sequences=count)
    device = learner.params[0].device
    ids, kinds = (torch.from_numpy(array.astype(np.int64)).to(device) for array in batch)
    return ids, kinds


def take_step(learner: Learner, stage: Stage, *, seed: str, lr_factor: float) -> list[float]:
    """One step of `micro_batches` micro-batches; gives the mean losses of text and of answers."""
    draws = [(stage, f"{seed}/{index}") for index in range(learner.preset.micro_batches)]
    for group in learner.adam.param_groups:
        group["lr"] = learner.preset.adam_lr * lr_factor
    lr = learner.preset.muon_lr * lr_factor
    chunks = [
        [learner.matrices[i] for i in chunk]
        for chunk in same_shape_chunks([learner.params[i] for i in learner.matrices])
    ]
    if learner.pool:
        results = run_jobs(learner.pool, "gradient", draws)
        collect_gradients(learner.pool, learner.model)
        run_jobs(learner.pool, "update", [(chunk, lr) for chunk in chunks])
    else:
        results = [backward(learner, *payload) for payload in draws]
        for chunk in chunks:
            update_matrices(learner, [p.grad for p in learner.params], chunk, lr)
    learner.adam.step()
    for param in learner.params:
        param.grad.zero_()
    return np.mean(results, axis=0)[1:].round(4).tolist()


def backward(learner: Learner, stage: Stage, seed: str) -> list[float]:
    device = learner.params[0].device.type
    with torch.autocast(device, torch.bfloat16, enabled=learner.preset.autocast):
        parts = losses(learner.model, *draw(learner, stage, seed))
    parts[0].backward()
    return parts.tolist()


def update_matrices(learner: Learner, grads: list[Tensor], chunk: list[int], lr: float) -> None:
    params = [learner.params[i] for i in chunk]
    momenta = [learner.momenta[i] for i in chunk]
    muon_step(params, [grads[i] for i in chunk], momenta, lr=lr)
