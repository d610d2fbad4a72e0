"""The limits of a server: what clients may take of it, and for how long."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a server.

    Attributes:
        max_object_bytes: size of the largest object. A raw chunk of 1,536 tokens takes 0.8 GB
            where a token takes 512 KiB, as in Llama-2-7B.
        capacity_bytes: the most that all objects together may take; beyond it the least recently
            used are evicted. None: nothing is evicted.
        max_connections: the most connections of clients at once, idle ones too. Arbitrary: 64 to
            900 do, under the usual limit of 1,024 open files.
        drain_s: seconds that transfers may go on after SIGTERM. Arbitrary: 5 to 80 do, within the
            90 s that systemd waits.
        head_s: seconds for a handshake, for a request's head, for the rest of a refused body, and
            for all that a client does before it shows a valid token. Arbitrary: 5 to 60 s do.
        patience_s: seconds in which a client has to give or take each 256 KiB of a body, so that
            4 KiB a second keep a transfer alive and a byte now and then does not. Arbitrary: 40
            to 300 s do; longer than a client's own limit of 30 s (`open_store`).
        refusal_s: seconds before a wrong token is told so. Arbitrary: 0.1 to 3 s do; a client that
            tries again and again asks five times a second.
    """

    max_object_bytes: int = 1 << 30
    capacity_bytes: int | None = None
    max_connections: int = 512
    drain_s: int = 30
    head_s: float = 10.0
    patience_s: float = 60.0
    refusal_s: float = 0.2
