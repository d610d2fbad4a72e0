"""Who is let in, and who holds a server's connections: tenants, and strangers without a token."""

from __future__ import annotations

import ipaddress
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

# Arbitrary: a thirty-second to a quarter do. Of the default of 512 connections 64 then stay for
# newcomers: a burst of health probes, scrapes of metrics and first requests.
_RESERVED_SHARE = 8
# Arbitrary: 2 to 8 do. Of the default of 512 connections a tenant then has 224 at most, and a
# process that loads holds 8 to 32.
_TENANT_SHARES = 2
# Arbitrary: 64 to 1,024 do. As many as a process that loads opens at once, 32, for eight of them
# that begin together.
_BURST = 256
# Arbitrary: 5 to 100 do: more than health probes, and 3% of a core: a handshake with RSA of 2,048
# bits and the refusal of a wrong token take 1.5 ms.
_A_SECOND = 20.0
# Arbitrary: 60 to 86,400 s do.
_TRUSTED_S = 600.0
# A bound on memory, of 1 MB: who comes from more addresses is forgotten. Arbitrary: 1,000 and more.
_ADDRESSES = 4096
# The first 64 bits of an address of IPv6, as its network is anybody's who has one address of it.
_NETWORK_BYTES = 8


class Guest(Protocol):
    """A connection, from before its handshake on."""

    @property
    def idle(self) -> bool:
        """Whether nothing of a request or an answer is under way."""

    def abort(self) -> None:
        """End the connection at once."""


class Admission:
    """The connections of a server, and whose they are; at most `max_connections` at once.

    A connection is a stranger's until a request on it has shown a valid token. Newcomers are let
    in at the cost of the stranger that has been there longest, so that strangers keep nobody out.
    Tenants leave a part of the connections to newcomers, and each has a limit of its own, at which
    a further connection costs it the one that has been idle longest. Where all are taken, idle ones
    go first; then who has more than an equal part loses to who has less, whatever is under way.

    Attributes:
        newcomers: the addresses that they come from.
    """

    def __init__(self, max_connections: int, *, tenants: int = 1) -> None:
        self._max = max(2, max_connections)
        self._tenants_max = self._max - max(1, self._max // _RESERVED_SHARE)
        self._tenant_max = max(1, self._tenants_max // min(max(1, tenants), _TENANT_SHARES))
        self._equal_part = self._tenants_max // max(1, tenants)
        self._strangers: dict[Guest, None] = {}
        self._owners: dict[Guest, str] = {}  # by last use
        self._counts: Counter[str] = Counter()
        self.newcomers = Newcomers()

    def __len__(self) -> int:
        return len(self._strangers) + len(self._owners)

    def enter(self, guest: Guest) -> None:
        """Let a newcomer in, as a stranger."""
        if len(self) >= self._max:
            self._end(next(iter(self._strangers)))
        self._strangers[guest] = None

    def leave(self, guest: Guest) -> None:
        """Forget a connection; one that is not known is no error."""
        self._strangers.pop(guest, None)
        owner = self._owners.pop(guest, None)
        if owner is not None:
            self._counts[owner] -= 1

    def claim(self, guest: Guest, tenant: str) -> bool:
        """Make a connection a tenant's, as used just now; False where there are too many.

        One that is refused stays, or becomes, a stranger's.
        """
        if guest not in self._strangers and guest not in self._owners:
            return False  # displaced meanwhile
        if self._owners.get(guest) == tenant:
            self._owners[guest] = self._owners.pop(guest)
            return True
        self.leave(guest)
        if not self._make_room(tenant):
            self._strangers[guest] = None
            return False
        self._owners[guest] = tenant
        self._counts[tenant] += 1
        return True

    def _make_room(self, tenant: str) -> bool:
        full = self._counts[tenant] >= self._tenant_max
        if not full and len(self._owners) < self._tenants_max:
            return True
        for guest, owner in self._owners.items():
            if guest.idle and (owner == tenant or not full):
                return self._end(guest)
        ((most, count),) = self._counts.most_common(1)
        if full or self._counts[tenant] >= self._equal_part or count <= self._equal_part:
            return False
        return self._end(next(guest for guest, owner in self._owners.items() if owner == most))

    def _end(self, guest: Guest) -> bool:
        self.leave(guest)
        guest.abort()
        return True


@dataclass(slots=True)
class _Past:
    """What is known of an address: connections that it may begin at a time, and its last token."""

    left: float
    at_s: float
    trusted_until_s: float = float("-inf")


class Newcomers:
    """Lets addresses in, and those from which no valid token comes not too often.

    Such an address may begin `_BURST` connections, and from then on `_A_SECOND`: so that is how
    many handshakes it can ask for, and how many wrong tokens it can try, as each costs it a
    connection. An address from which a valid token came within `_TRUSTED_S` may begin any number:
    it may be a proxy's, and that of strangers and tenants. Networks of IPv6 count as one address.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pasts: OrderedDict[str | bytes, _Past] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pasts)

    def let_in(self, address: str) -> bool:
        """Whether an address may begin one more connection; it has begun it then."""
        now_s, past = self._clock(), self._past(address)
        past.left = min(_BURST, past.left + _A_SECOND * (now_s - past.at_s))
        past.at_s = now_s
        if now_s < past.trusted_until_s:
            return True
        if past.left < 1:
            return False
        past.left -= 1
        return True

    def trust(self, address: str) -> None:
        """Note that a valid token has come from an address."""
        past = self._past(address)
        past.left, past.trusted_until_s = _BURST, self._clock() + _TRUSTED_S

    def _past(self, address: str) -> _Past:
        network = _network(address)
        past = self._pasts.setdefault(network, _Past(_BURST, self._clock()))
        self._pasts.move_to_end(network)
        if len(self._pasts) > _ADDRESSES:
            self._pasts.popitem(last=False)
        return past


def _network(address: str) -> str | bytes:
    if ":" not in address:
        return address
    return ipaddress.IPv6Address(address).packed[:_NETWORK_BYTES]
