"""Loads under faults: a server, a proxy and a client each, and a verdict on every load."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cachegen.bitstream.manifest import manifest_key
from cachegen.codec.levels import TEXT
from cachegen.contexts.outcome import LoadedChunk
from cachegen.errors import StoreError, StoreTimeout
from cachegen.loading.load import load
from cachegen.loading.result import LoadResult
from cachegen.netem.relay import LOOPBACK
from cachegen.store import Store, open_store
from faults.cases import Company, Evictions, Method, draw_company, draw_method, faults_of
from faults.model import FINGERPRINT
from faults.proxy import FaultProxy, Script
from faults.servers import TOKEN, Server, serving
from faults.truth import Request, Truth

STALL_S = 0.4
HUNG_S = 20.0
ELSEWHERE = ("wrong_token", "expired_certificate", "dead")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a load.

    Attributes:
        fault: which was injected.
        verdict: `ok`, `wrong`, `hung` or `failed`.
        company: whether there was a model, and another load.
        detail: why, where it is not `ok`; enough to repeat it.
        fired: whether the fault struck.
        ended_early: whether it gave fewer tokens than are stored, or a `StoreError`; where there
            is no model it may.
        ttft_s: from the call to the result.
        retried: chunks with an object that was asked for again.
        relevelled: chunks that came at another level than the one they were first asked for at.
        recomputed: chunks that were recomputed.
    """

    fault: str
    verdict: str
    company: Company
    detail: str = ""
    fired: bool = False
    ended_early: bool = False
    ttft_s: float = 0.0
    retried: int = 0
    relevelled: int = 0
    recomputed: int = 0


@dataclass(frozen=True, slots=True)
class Case:
    """What is tried."""

    fault: str
    request: Request
    method: Method
    company: Company


@dataclass(frozen=True, slots=True)
class Running:
    """A load under way, and how to end it."""

    future: Future[LoadResult]
    cancel: threading.Event


@dataclass(slots=True, eq=False)
class Bench:
    """Where one load at a time is tried, or two of the same context.

    Attributes:
        truth: what is stored, and what must come out.
        server: the server of this bench alone.
        proxy: between it and the loader.
        stores: what the loader uses while the proxy does the mischief.
        others: stores that are out of order by themselves, by fault.
        evictions: of the server's folder.
    """

    truth: Truth
    server: Server
    proxy: FaultProxy
    stores: Sequence[Store]
    others: dict[str, Sequence[Store]]
    evictions: Evictions
    _restart: threading.Thread | None = None

    def run(self, number: int, fault: str, *, seed: int) -> list[Outcome]:
        """One load or two; everything about them follows from their number and the seed."""
        rng = random.Random(f"{seed} {number}")
        request, method = rng.choice(self.truth.requests), draw_method(rng)
        company = draw_company(rng, fault)
        self.proxy.script = Script(
            faults_of(
                fault,
                request.manifest,
                rng=rng,
                level=method.level or "high",
                kill=self._kill,
                evict=self.evictions.evict,
            )
        )
        store = rng.choice(self.others.get(fault) or self.stores)
        profile = request.profile if rng.random() < 0.7 else None
        call = partial(
            load,
            request.tokens,
            store=store,
            profile=profile,
            level=method.level,
            controller=method.controller,
            slo_s=method.slo_s,
            recompute=self.truth.model.recompute if company.has_model else None,
            fingerprint=FINGERPRINT,
            stall_s=STALL_S,
        )
        case = Case(fault, request, method, company)
        try:
            running = [_begin(call, start_s) for start_s in company.starts_s]
            outcomes = [self._judge(one, case) for one in running]
        finally:
            self._repair()
        how = f"load {number} by {method} in {company} from {store.url}"
        return [one if one.verdict == "ok" else _with_detail(one, how) for one in outcomes]

    def _judge(self, running: Running, case: Case) -> Outcome:
        outcome = Outcome(case.fault, "ok", case.company)
        try:
            result = running.future.result(timeout=HUNG_S)
        except StoreError as error:
            return self._judge_error(error, outcome)
        except Exception as error:
            running.cancel.set()
            verdict = "failed" if running.future.done() else "hung"
            return replace(outcome, verdict=verdict, detail=f"{type(error).__name__}: {error}")
        outcome = replace(outcome, fired=self._fired(case.fault, result), ttft_s=result.ttft_s)
        flaw, lack = self.truth.flaw(result, case.request), self._lack(result, case.request)
        is_excused = not case.company.has_model and outcome.fired
        return replace(
            outcome,
            verdict="wrong" if flaw else "failed" if lack and not is_excused else "ok",
            detail=flaw or lack,
            ended_early=bool(lack),
            retried=sum(chunk.retries > 0 for chunk in result.chunks),
            relevelled=sum(
                _is_relevelled(index, chunk, result, case.method.level)
                for index, chunk in enumerate(result.chunks)
            ),
            recomputed=sum(chunk.level == TEXT for chunk in result.chunks),
        )

    def _judge_error(self, error: StoreError, outcome: Outcome) -> Outcome:
        """Without a model, a store that cannot be asked is an error; with one it never is.

        A store may also just be slow: the limits are tight, and tighter after a silence.
        """
        fired = outcome.fault in ELSEWHERE or self.proxy.script.fired > 0
        is_excused = fired or isinstance(error, StoreTimeout)
        return replace(
            outcome,
            verdict="ok" if is_excused and not outcome.company.has_model else "failed",
            detail=f"{type(error).__name__}: {error}",
            fired=fired,
            ended_early=True,
        )

    def _lack(self, result: LoadResult, request: Request) -> str:
        """Which tokens are missing; a context that is forgotten is one that nobody can know of."""
        lost = [chunk for chunk in result.chunks if chunk.level is None]
        is_known = manifest_key(request.manifest.context_id) not in self.evictions
        if lost or (is_known and result.num_tokens < request.num_stored):
            return f"{result.num_tokens} of {request.num_stored} stored tokens, lost: {lost}"
        return ""

    def _fired(self, fault: str, result: LoadResult) -> bool:
        """Whether the proxy did it, or the load noticed that its store is no good."""
        noticed = any(chunk.reason for chunk in result.chunks)
        return noticed if fault in ELSEWHERE else self.proxy.script.fired > 0

    def _kill(self) -> None:
        """Kill the server, and have it back as soon as that can be."""
        self.server.kill()
        self._restart = threading.Thread(target=self._start_again)
        self._restart.start()

    def _start_again(self) -> None:
        self.server.restart()
        self.proxy.upstream = self.server.port

    def _repair(self) -> None:
        """All as it was, for the next load."""
        self.proxy.script = Script()
        self.evictions.restore()
        if self._restart is not None:
            self._restart.join()
            self._restart = None


def _is_relevelled(index: int, chunk: LoadedChunk, result: LoadResult, level: str | None) -> bool:
    """Whether something went wrong with it, and it came at another level in the end."""
    asked = [
        timed.decision.level
        for timed in result.decisions
        if timed.decision.chunk == index and timed.decision.action == "fetch"
    ]
    first = level or (asked[0] if asked else None)
    return bool(chunk.reason) and chunk.level not in (None, TEXT, first)


def _with_detail(outcome: Outcome, how: str) -> Outcome:
    return replace(outcome, detail=f"{outcome.detail} ({how})")


def _begin(call: partial[LoadResult], start_s: float) -> Running:
    """In a thread that nobody waits for: it may hang."""
    running = Running(Future(), threading.Event())

    def run() -> None:
        time.sleep(start_s)
        try:
            running.future.set_result(call(cancel=running.cancel))
        except BaseException as error:
            running.future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return running


@contextmanager
def open_bench(
    truth: Truth,
    original: Path,
    work: Path,
    *,
    tokens: Path,
    others: dict[str, Sequence[Store]],
) -> Iterator[Bench]:
    """A bench on a copy of the folder that holds what is stored."""
    folder, aside = work / "objects", work / "evicted"
    shutil.copytree(original, folder)
    aside.mkdir()
    (namespace,) = (path for path in folder.iterdir() if path.is_dir())
    with ExitStack() as stack:
        server = stack.enter_context(serving(folder, "--tenants", str(tokens)))
        proxy = stack.enter_context(closing(FaultProxy()))
        proxy.upstream = server.port
        yield Bench(
            truth,
            server,
            proxy,
            open_both(proxy.port, TOKEN),
            others | {"wrong_token": open_both(proxy.port, "wrong")},
            Evictions(namespace, aside),
        )


def open_both(port: int, token: str, *, tls: str = "") -> list[Store]:
    """Our own client, and a plain HTTP one."""
    urls = (
        f"cachegen{tls}://{token}@{LOOPBACK}:{port}",
        f"http{tls}://tenant:{token}@{LOOPBACK}:{port}",
    )
    return [open_store(url) for url in urls]
