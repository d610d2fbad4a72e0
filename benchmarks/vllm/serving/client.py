"""A client of vLLM's HTTP API that measures the time to the first token."""

from __future__ import annotations

import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

# A prefill of 4,096 tokens takes 7 s alone on two cores; this is for a hung server.
_LIMIT_S = 300.0
# Too short for a chunk: it is neither looked up nor saved.
_NUDGE = (5, 6, 7)
_COUNTER = re.compile(r"^vllm:cachegen_(\w+)_total\{(.*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(?:reason|kind|level)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Timed:
    """A streamed answer.

    Attributes:
        ttft_s: from sending the request to the first token.
        hit_tokens: of the prompt, those that were not computed.
    """

    ttft_s: float
    hit_tokens: int


@dataclass(frozen=True, slots=True)
class Client:
    """Of a server on this machine."""

    port: int

    def is_ready(self) -> bool:
        """Whether it answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5):
                return True
        except (OSError, http.client.HTTPException):
            return False

    def time(self, tokens: Sequence[int], *, max_tokens: int = 1) -> Timed:
        """Ask for some tokens, streamed, on a connection of its own."""
        more = {"max_tokens": max_tokens, "stream_options": {"include_usage": True}}
        body = self._body(tokens, stream=True, **more)
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=_LIMIT_S)) as http_:
            began_s = time.perf_counter()
            http_.request("POST", "/v1/completions", body, {"content-type": "application/json"})
            answer = http_.getresponse()
            if answer.status != 200:
                raise RuntimeError(f"vLLM answered {answer.status}: {answer.read()[:500]!r}")
            ttft_s, hit_tokens = None, 0
            for event in _events(answer):
                if event.get("choices") and ttft_s is None:
                    ttft_s = time.perf_counter() - began_s
                details = (event.get("usage") or {}).get("prompt_tokens_details") or {}
                hit_tokens = details.get("cached_tokens") or hit_tokens
        if ttft_s is None:
            raise RuntimeError("vLLM ended a stream without a token")
        return Timed(ttft_s, hit_tokens)

    def next_token(self, tokens: Sequence[int]) -> int:
        """The id of the likeliest next token."""
        answer = json.loads(
            self._post("/v1/completions", self._body(tokens, return_token_ids=True))
        )
        token: int = answer["choices"][0]["token_ids"][0]
        return token

    def forget(self) -> None:
        """Empty vLLM's own cache of prefixes; what the connector knows stays.

        Blocks of the last request are given back a moment after its answer.
        """
        deadline_s = time.monotonic() + _LIMIT_S
        while not json.loads(self._post("/reset_prefix_cache", b"") or b"{}").get("success", True):
            if time.monotonic() > deadline_s:
                raise RuntimeError("vLLM does not empty its cache of prefixes")
            time.sleep(0.05)

    def counts(self) -> dict[str, float]:
        """The connector's counters: a name, or a name and a label as in ``misses:late``."""
        self.next_token(_NUDGE)  # counters come with steps
        url = f"http://127.0.0.1:{self.port}/metrics"
        with urllib.request.urlopen(url, timeout=_LIMIT_S) as answer:
            text = answer.read().decode()
        return {
            f"{name}:{label[1]}" if (label := _LABEL.search(labels)) else name: float(value)
            for name, labels, value in _COUNTER.findall(text)
        }

    def saved(self) -> float:
        """Tokens that were saved, or left out, since the server's start."""
        counts = self.counts()
        return counts.get("tokens_saved", 0.0) + counts.get("tokens_shed", 0.0)

    def await_saved(self, least_tokens: float) -> None:
        """Wait until the connector has saved so many tokens since the server's start."""
        deadline_s = time.monotonic() + _LIMIT_S
        while (saved := self.saved()) < least_tokens:
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"{saved:.0f} of {least_tokens:.0f} tokens were saved")
            time.sleep(0.2)

    def settled(self) -> dict[str, float]:
        """The counters once nothing more is being saved: two seconds long they stay the same."""
        deadline_s = time.monotonic() + _LIMIT_S
        counts: dict[str, float] = {}
        while (new := self.counts()) != counts and time.monotonic() < deadline_s:
            counts = new
            time.sleep(2.0)
        return counts

    def _post(self, path: str, body: bytes) -> bytes:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            body,
            {"content-type": "application/json"},
            method="POST",
        )
        try:
            with urllib.request.urlopen(request, timeout=_LIMIT_S) as answer:
                content: bytes = answer.read()
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"vLLM answered {error.code}: {error.read()[:500]!r}") from None
        return content

    @staticmethod
    def _body(tokens: Sequence[int], **more: Any) -> bytes:
        body = {"model": "model", "prompt": list(tokens), "max_tokens": 1, "temperature": 0}
        return json.dumps({**body, "ignore_eos": True, **more}).encode()


def _events(answer: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The JSON objects of a stream of server-sent events."""
    for line in answer:
        content = line.strip().removeprefix(b"data: ")
        if content.startswith(b"{"):
            yield json.loads(content)
