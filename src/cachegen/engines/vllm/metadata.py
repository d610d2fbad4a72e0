"""The envelopes in which vLLM carries jobs and reports between processes."""

from __future__ import annotations

from dataclasses import dataclass, field

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    KVConnectorWorkerMetadata,
)

from cachegen.engines.vllm.costs import Learned
from cachegen.engines.vllm.jobs import Report, Step


@dataclass
class StepMetadata(KVConnectorMetadata):  # type: ignore[misc]
    """A step's jobs, to the workers."""

    step: Step = field(default_factory=Step)


@dataclass
class WorkerMetadata(KVConnectorWorkerMetadata):  # type: ignore[misc]
    """A worker's report, to the scheduler."""

    report: Report

    def aggregate(self, other: KVConnectorWorkerMetadata) -> WorkerMetadata:
        """The report of two workers."""
        assert isinstance(other, WorkerMetadata)
        return WorkerMetadata(self.report.joined(other.report))


@dataclass
class Known(KVConnectorHandshakeMetadata):  # type: ignore[misc]
    """What a worker knows from earlier runs, to the scheduler at the start."""

    learned: Learned
