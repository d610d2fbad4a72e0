"""Who holds a server's connections: tenants, and strangers who have shown no token yet."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

# Arbitrary: a thirty-second to a quarter do. Of the default of 512 connections 64 then stay for
# newcomers: a burst of health probes, scrapes of metrics and first requests.
_RESERVED_SHARE = 8
# Arbitrary: 2 to 8 do. Of the default of 512 connections a tenant then has 224 at most, and a
# process that loads holds 8 to 32.
_TENANT_SHARES = 2


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
    """

    def __init__(self, max_connections: int, *, tenants: int = 1) -> None:
        self._max = max(2, max_connections)
        self._tenants_max = self._max - max(1, self._max // _RESERVED_SHARE)
        self._tenant_max = max(1, self._tenants_max // min(max(1, tenants), _TENANT_SHARES))
        self._equal_part = self._tenants_max // max(1, tenants)
        self._strangers: dict[Guest, None] = {}
        self._owners: dict[Guest, str] = {}  # by last use
        self._counts: Counter[str] = Counter()

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
