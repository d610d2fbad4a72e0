"""Who gets a server's connections, and whose are ended for it."""

from __future__ import annotations

from dataclasses import dataclass

from cachegen.server.admission import Admission, Newcomers


@dataclass(eq=False)
class Guest:
    idle: bool = True
    ended: bool = False

    def abort(self) -> None:
        self.ended = True


def entered(admission: Admission, count: int, *, idle: bool = True) -> list[Guest]:
    guests = [Guest(idle) for _ in range(count)]
    for guest in guests:
        admission.enter(guest)
    return guests


def owned(admission: Admission, tenant: str, count: int, *, idle: bool) -> list[bool]:
    guests = (entered(admission, 1, idle=idle)[0] for _ in range(count))
    return [admission.claim(guest, tenant) for guest in guests]


def test_strangers_keep_nobody_out() -> None:
    admission = Admission(16)
    strangers = entered(admission, 100)
    assert len(admission) == 16
    assert [guest.ended for guest in strangers] == [True] * 84 + [False] * 16
    assert admission.claim(strangers[-1], "a")
    assert not admission.claim(strangers[0], "a")


def test_tenants_leave_a_part_to_newcomers() -> None:
    admission = Admission(16)
    assert owned(admission, "a", 20, idle=False) == [True] * 14 + [False] * 6
    (newcomer,) = entered(admission, 1)
    assert len(admission) <= 16
    assert not newcomer.ended


def test_no_tenant_takes_the_others_part() -> None:
    admission = Admission(64, tenants=2)
    for tenant in ("a", "b"):
        assert owned(admission, tenant, 30, idle=False) == [True] * 28 + [False] * 2
    assert len(admission) <= 64


def test_of_many_tenants_each_has_half_at_most() -> None:
    admission = Admission(64, tenants=50)
    assert owned(admission, "a", 40, idle=False).count(True) == 28
    assert all(owned(admission, "b", 28, idle=True))
    assert owned(admission, "c", 5, idle=False) == [True] * 5  # for idle ones of any tenant


def test_who_has_less_than_an_equal_part_gets_it() -> None:
    """Whatever the others do: two that work together do not keep out a third."""
    admission = Admission(64, tenants=8)
    for tenant in ("a", "b"):
        assert all(owned(admission, tenant, 28, idle=False))
    assert owned(admission, "e", 9, idle=False) == [True] * 7 + [False] * 2
    assert owned(admission, "f", 9, idle=False) == [True] * 7 + [False] * 2
    assert owned(admission, "a", 1, idle=False) == [False]
    assert len(admission) <= 64


def test_at_its_limit_a_tenant_pays_with_what_is_idle_longest() -> None:
    admission = Admission(16, tenants=2)
    guests = entered(admission, 7)
    assert all(admission.claim(guest, "a") for guest in guests)
    assert admission.claim(guests[0], "a")  # used again
    guests[1].idle = False
    assert owned(admission, "a", 1, idle=False) == [True]
    assert [guest.ended for guest in guests] == [False, False, True, False, False, False, False]


def test_a_connection_may_serve_one_tenant_after_the_other() -> None:
    """As one of a proxy does."""
    admission = Admission(16, tenants=2)
    (shared,) = entered(admission, 1, idle=False)
    assert admission.claim(shared, "a")
    assert owned(admission, "b", 7, idle=False) == [True] * 7
    assert not admission.claim(shared, "b")
    assert len(admission) == 8
    assert admission.claim(shared, "a")
    assert owned(admission, "a", 7, idle=False) == [True] * 6 + [False]


def test_who_has_left_takes_no_room() -> None:
    admission = Admission(16)
    for _ in range(3):
        guests = entered(admission, 14, idle=False)
        assert all(admission.claim(guest, "a") for guest in guests)
        for guest in guests * 2:
            admission.leave(guest)
        assert len(admission) == 0


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def begun(newcomers: Newcomers, address: str, count: int) -> int:
    return sum(newcomers.let_in(address) for _ in range(count))


def test_who_shows_no_token_comes_seldom() -> None:
    clock = Clock()
    newcomers = Newcomers(clock=clock)
    assert begun(newcomers, "10.0.0.1", 1000) == 256
    clock.now_s += 2
    assert begun(newcomers, "10.0.0.1", 1000) == 40
    assert begun(newcomers, "10.0.0.2", 1000) == 256
    clock.now_s += 3600
    assert begun(newcomers, "10.0.0.1", 1000) == 256


def test_who_shows_a_token_comes_as_often_as_it_likes() -> None:
    clock = Clock()
    newcomers = Newcomers(clock=clock)
    begun(newcomers, "10.0.0.1", 1000)
    newcomers.trust("10.0.0.1")
    assert begun(newcomers, "10.0.0.1", 1000) == 1000
    clock.now_s += 601
    assert begun(newcomers, "10.0.0.1", 1000) == 256


def test_a_network_of_ipv6_counts_as_an_address() -> None:
    newcomers = Newcomers(clock=Clock())
    assert sum(newcomers.let_in(f"2001:db8::{number:x}") for number in range(1000)) == 256
    assert newcomers.let_in("2001:db8:0:1::1")


def test_many_addresses_take_little() -> None:
    newcomers = Newcomers(clock=Clock())
    assert all(newcomers.let_in(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}") for n in range(10_000))
    assert len(newcomers) == 4096
