"""A run: the server, the crowds, the ends of the server, and the account at the end."""

from __future__ import annotations

import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from soak_world.crowd import Crowd, Plan
from soak_world.disk import empty_folders, in_index, on_disk, total
from soak_world.mischief import DEEDS, HONEST
from soak_world.service import TENANTS, Service
from soak_world.watch import MAX_GROWTH, Sample, flaws, sample, trend

# The part of the run in which the server is ended and started; then one process lives to the end.
_STORM = 0.4
# Arbitrary: 3 to 10 ends in the storm of a short run, and one every 10 to 60 seconds of a long one.
_LIFE_S = (4.0, 30.0)
_TICK_S = 1.0
_PROGRESS_S = 10.0
# Of a crowd: a load under way may take so long to notice.
_SETTLES_S = 10.0
# Objects that may be evicted between the last answer of `/metrics` and the end of a server: that
# of a drain is some hundred. Arbitrary: 50 to 1,000 do.
_EVICTED_UNSEEN = 200
_LOG_LINES = 20


@dataclass(slots=True, eq=False)
class Soak:
    """One run."""

    folder: Path
    minutes: float
    clients: int
    pause_s: float
    seed: int
    wrong: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    crowds: list[Crowd] = field(default_factory=list)

    def run(self) -> dict[str, object]:
        """Run, and return what came of it."""
        service = Service(self.folder)
        service.prepare()
        service.start()
        try:
            self._gather(service)
            began_s = time.monotonic()
            self._live(service, began_s)
            for crowd in self.crowds:
                crowd.ask("stop")
            self._account(service)
            return self._summary(service, time.monotonic() - began_s)
        finally:
            for crowd in self.crowds:
                crowd.process.kill()
            if service.process is not None:
                service.process.kill()
                service.process.wait()

    def _gather(self, service: Service) -> None:
        folders = service.namespaces()
        for number, tenant in enumerate(TENANTS):
            others = [folder for folder, name in folders.items() if name != tenant.name]
            plan = Plan(
                tenant,
                others,
                service.port,
                str(service.authority),
                self.clients // len(TENANTS),
                self.pause_s,
                self.seed * 1000 + number,
            )
            self.crowds.append(Crowd.begin(plan))
        for crowd in self.crowds:
            crowd.pipe.recv()
        for crowd in self.crowds:
            crowd.ask("live")

    def _live(self, service: Service, began_s: float) -> None:
        rng, seconds = random.Random(self.seed), 60 * self.minutes
        life_s = min(_LIFE_S[1], max(_LIFE_S[0], _STORM * seconds / 6))
        ends_s = began_s + life_s
        told_s, is_calm = began_s, False
        while (now_s := time.monotonic()) < began_s + seconds:
            if now_s >= ends_s and now_s < began_s + _STORM * seconds:
                self._end(service, rng.choice((signal.SIGTERM, signal.SIGKILL)))
                time.sleep(rng.uniform(0, 1))
                service.start()
                ends_s = time.monotonic() + rng.uniform(0.5, 1.5) * life_s
            elif not is_calm and now_s >= began_s + _STORM * seconds + _TICK_S:
                for crowd in self.crowds:
                    crowd.ask("calm")
                is_calm = True
            self._look(service, began_s)
            if now_s >= told_s:
                self._tell(service, now_s - began_s)
                told_s = now_s + _PROGRESS_S
            time.sleep(_TICK_S)

    def _end(self, service: Service, number: signal.Signals) -> None:
        status = service.end(number)
        self.ends[number.name] += 1
        if status != (0 if number == signal.SIGTERM else -number):
            self.wrong.append(f"after {number.name} the server ended with {status}")
        self.samples.clear()

    def _look(self, service: Service, began_s: float) -> None:
        assert service.process is not None
        if service.process.poll() is not None:
            self.wrong.append(f"the server ended by itself with {service.process.returncode}")
            service.end(signal.SIGTERM)
            service.start()
            return
        self.samples.append(sample(service.process.pid, time.monotonic() - began_s))
        service.scrape()
        for crowd in self.crowds:
            crowd.hear()

    def _tell(self, service: Service, seconds: float) -> None:
        counts, now = self._counts(), self.samples[-1] if self.samples else None
        print(
            f"{seconds:6.0f} s: {sum(counts[name] for name in DEEDS)} done, "
            f"{counts['load whole']} loads whole, {counts['wrong']} wrong, "
            f"{sum(self.ends.values())} ends, "
            f"{service.evicted + int(service.metrics.get('cachegen_evicted_total', 0))} evicted"
            + (f", {now.rss_mb:.0f} MB, {now.files} files, {now.threads} threads" if now else ""),
            file=sys.stderr,
            flush=True,
        )

    def _counts(self) -> Counter[str]:
        return sum((crowd.counts for crowd in self.crowds), Counter())

    def _account(self, service: Service) -> None:
        """Hold what is said against what is there, while nobody changes it."""
        settled_s = time.monotonic() + _SETTLES_S
        while service.scrape().get("cachegen_in_flight") != 1 and time.monotonic() < settled_s:
            time.sleep(0.5)
        if service.metrics.get("cachegen_in_flight") != 1:
            self.wrong.append(f"requests under way: {service.metrics.get('cachegen_in_flight')}")
        self._compare(service, "at the end")
        for crowd in self.crowds:
            crowd.ask("account")
        self._end_and_scan(service)
        missing = self._counts()["missing"]
        most = service.evicted + _EVICTED_UNSEEN * sum(self.ends.values())
        if missing > most:
            self.wrong.append(f"{missing} objects are missing, {most} at most were evicted")

    def _end_and_scan(self, service: Service) -> None:
        samples = list(self.samples)
        self._end(service, signal.SIGTERM)
        self.ends[signal.SIGTERM.name] -= 1
        self.samples = samples
        held, listed = on_disk(service.objects), in_index(service.index)
        if held != listed:
            self.wrong.append(f"tenants: on the disk {held}, in the index {listed}")
        service.start()
        service.scrape()
        self._compare(service, "after a scan")
        if left := empty_folders(service.objects):
            self.wrong.append(f"{len(left)} empty folders after a scan: {left[:3]}")
        if strange := set(on_disk(service.objects)) - set(service.namespaces()):
            self.wrong.append(f"folders of nobody: {sorted(strange)}")

    def _compare(self, service: Service, when: str) -> None:
        names = ("cachegen_stored_objects", "cachegen_stored_bytes")
        said = tuple(int(service.metrics.get(name, -1)) for name in names)
        found = total(on_disk(service.objects))
        if said != found:
            self.wrong.append(f"{when}: (objects, bytes) by metrics {said}, on the disk {found}")

    def _summary(self, service: Service, seconds: float) -> dict[str, object]:
        counts = self._counts()
        trends = {name: trend(self.samples, name) for name in MAX_GROWTH}
        self.wrong += flaws(trends)
        self.wrong += [f"nobody could {name}" for name in HONEST if not counts[name]]
        if not counts["load whole"]:
            self.wrong.append("no context was loaded whole")
        if not service.evicted:
            self.wrong.append("nothing was evicted")
        said = service.log.read_text().splitlines()
        self.wrong += [f"log: {line}" for line in said if "Traceback" in line or "Error" in line]
        for crowd in self.crowds:
            self.wrong += crowd.wrong
        held = on_disk(service.objects)
        return {
            "seconds": round(seconds, 1),
            "wrong": self.wrong,
            "ends": dict(self.ends),
            "evicted": service.evicted,
            "tenants": {name: held.get(folder) for folder, name in service.namespaces().items()},
            "server": trends,
            "log_lines": len(said),
            "log": said[-_LOG_LINES:],
            "failures_in_calm": {k: v for crowd in self.crowds for k, v in crowd.failures.items()},
            "counts": dict(sorted(counts.items())),
        }
