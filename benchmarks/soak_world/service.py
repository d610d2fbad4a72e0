"""`cachegen serve` over TLS on one port, with a capacity, an index, quotas; ended and begun."""

from __future__ import annotations

import json
import re
import signal
import socket
import ssl
import subprocess
import urllib.request
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import trustme

from cachegen.netem.relay import LOOPBACK
from cachegen.server.tenants_file import read_tenants
from faults.servers import started

MB = 10**6
# A minute of 64 clients fills it. Arbitrary: 20 to 2,000 do.
CAPACITY_MB = 24
MAX_OBJECT_MB, DRAIN_S = 4, 3
OPERATOR = "operator"
_GAUGE = re.compile(r"^(cachegen_\w+)(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant of the server.

    Attributes:
        name: its name, and its token.
        limits: its quotas, as the tenants file names them.
        is_modest: whether its quota is below an equal part of the capacity, so that nothing of it
            may be evicted.
    """

    name: str
    limits: dict[str, int] = field(default_factory=dict)
    is_modest: bool = False

    @property
    def token(self) -> str:
        return f"token-of-{self.name}"


TENANTS = (
    Tenant("modest", {"quota_mb": CAPACITY_MB // 5}, is_modest=True),
    Tenant("bounded", {"quota_mb": CAPACITY_MB // 2}),
    Tenant("counted", {"quota_objects": 150}),
    Tenant("greedy"),
)


@dataclass(slots=True, eq=False)
class Service:
    """The server of a run.

    Attributes:
        folder: where its files and objects are.
        port: where it listens, always the same.
        process: the one that runs.
        evicted: objects that were evicted by processes of before, as far as they told.
        metrics: the newest answer of the one that runs.
        starts: how many there were.
    """

    folder: Path
    port: int = 0
    process: subprocess.Popen[str] | None = None
    evicted: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    starts: int = 0

    def prepare(self) -> None:
        """Write certificates and the tenants file, and choose a port."""
        authority = trustme.CA()
        leaf = authority.issue_cert(LOOPBACK)
        leaf.private_key_pem.write_to_path(self.folder / "key.pem")
        leaf.cert_chain_pems[0].write_to_path(self.folder / "chain.pem")
        authority.cert_pem.write_to_path(self.authority)
        tenants: list[dict[str, object]] = [
            {"name": one.name, "token": one.token, "salt": f"salt of {one.name}", **one.limits}
            for one in TENANTS
        ]
        tenants.append({"name": OPERATOR, "token": OPERATOR, "salt": "none", "operator": True})
        self.tenants.write_text(json.dumps({"tenants": tenants}))
        self.tenants.chmod(0o600)
        with socket.create_server((LOOPBACK, 0)) as free:
            self.port = free.getsockname()[1]

    @property
    def authority(self) -> Path:
        return self.folder / "authority.pem"

    @property
    def tenants(self) -> Path:
        return self.folder / "tenants.json"

    @property
    def objects(self) -> Path:
        return self.folder / "store"

    @property
    def index(self) -> Path:
        return self.folder / "index"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def namespaces(self) -> dict[str, str]:
        """The name of the tenant that each folder of objects belongs to."""
        return {
            one.namespace: one.name for one in read_tenants(self.tenants, quota_bytes=None).known
        }

    def start(self) -> None:
        """Start it and wait until it listens."""
        options = {
            "--store": self.objects,
            "--index": self.index,
            "--port": self.port,
            "--tenants": self.tenants,
            "--tls-cert": self.folder / "chain.pem",
            "--tls-key": self.folder / "key.pem",
            "--capacity-mb": CAPACITY_MB,
            "--max-object-mb": MAX_OBJECT_MB,
            "--drain-s": DRAIN_S,
        }
        with self.log.open("a") as log:
            self.process, _ = started(*chain.from_iterable(options.items()), log=log)
        self.starts += 1

    def end(self, number: signal.Signals) -> int:
        """End it by a signal; its exit status."""
        process = self.process
        if process is None:
            return 0
        self.scrape()
        process.send_signal(number)
        status = process.wait(timeout=DRAIN_S + 30)
        assert process.stdout is not None
        process.stdout.close()
        self.evicted += int(self.metrics.get("cachegen_evicted_total", 0))
        self.metrics, self.process = {}, None
        return status

    def scrape(self) -> dict[str, float]:
        """Ask for the metrics; those of before where there is no answer."""
        request = urllib.request.Request(
            f"https://{LOOPBACK}:{self.port}/metrics",
            headers={"Authorization": f"Bearer {OPERATOR}"},
        )
        trust = ssl.create_default_context(cafile=str(self.authority))
        try:
            with urllib.request.urlopen(request, timeout=10, context=trust) as answer:
                text = answer.read().decode()
        except OSError:
            return self.metrics
        self.metrics = {name: float(value) for name, value in _GAUGE.findall(text)}
        return self.metrics
