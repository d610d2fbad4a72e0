from __future__ import annotations

from cachegen.engines.vllm.scheduler.admission import Admission


def test_only_so_many_at_once() -> None:
    loads = Admission(2)
    loads.begin("a", b"1", now_s=0.0, load_s=2.0)
    assert not loads.is_full
    loads.begin("b", b"2", now_s=0.0, load_s=3.0)
    assert loads.is_full
    assert loads.backlog_s(1.0) == 3.0
    assert loads.backlog_s(2.5) == 0.5
    loads.loaded("a")
    assert not loads.is_full


def test_twins_wait_until_the_blocks_are_used() -> None:
    loads = Admission(2)
    loads.begin("a", b"1", now_s=0.0, load_s=1.0)
    assert loads.is_loading(b"1", beside="b")
    assert not loads.is_loading(b"1", beside="a")
    loads.loaded("a")
    assert loads.is_loading(b"1", beside="b")
    loads.used("a")
    assert not loads.is_loading(b"1", beside="b")


def test_an_aborted_load_still_takes_its_place_until_it_ends() -> None:
    loads = Admission(1)
    loads.begin("a", b"1", now_s=0.0, load_s=1.0)
    loads.used("a")
    assert loads.is_full and not loads.is_loading(b"1", beside="b")
    loads.loaded("a")
    assert not loads.is_full


def test_what_failed_is_left_alone_for_a_while() -> None:
    loads = Admission(1)
    loads.begin("a", b"1", now_s=0.0, load_s=1.0)
    loads.failed("a", now_s=1.0)
    loads.loaded("a")
    assert loads.has_failed(b"1", now_s=2.0) and not loads.has_failed(b"2", now_s=2.0)
    assert not loads.has_failed(b"1", now_s=100.0)
    assert not loads.is_loading(b"1", beside="b")


def test_after_a_load_that_did_not_pay_none_begins_for_ever_longer() -> None:
    loads = Admission(1)
    assert not loads.is_held(now_s=0.0)
    loads.gave_up("a", now_s=0.0)
    assert loads.is_held(now_s=1.9) and not loads.is_held(now_s=2.1)
    loads.gave_up("a", now_s=10.0)
    assert loads.is_held(now_s=13.9) and not loads.is_held(now_s=14.1)
    for _ in range(20):
        loads.gave_up("a", now_s=100.0)
    assert loads.is_held(now_s=159.0) and not loads.is_held(now_s=161.0)
    loads.went_well("a")
    assert not loads.is_held(now_s=101.0)


def test_trials_come_one_at_a_time_and_after_one_that_failed_ever_later() -> None:
    loads = Admission(2)
    assert loads.may_try(now_s=0.0)
    for number, (now_s, next_s) in enumerate([(0.0, 2.0), (10.0, 14.0), (20.0, 28.0)]):
        name = f"r{number}"
        loads.begin(name, b"1", now_s=now_s, load_s=1.0, is_trial=True)
        assert not loads.may_try(now_s=now_s)
        loads.gave_up(name, now_s=now_s)
        loads.loaded(name)
        loads.used(name)
        assert not loads.may_try(now_s=next_s - 0.1) and loads.may_try(now_s=next_s + 0.1)
        assert not loads.is_held(now_s=now_s), "loads that pay by what is known go on"


def test_after_a_trial_that_went_well_the_next_may_begin_at_once() -> None:
    loads = Admission(2)
    for is_paying in (False, True):
        loads.begin("a", b"1", now_s=0.0, load_s=1.0, is_trial=True)
        loads.went_well("a") if is_paying else loads.gave_up("a", now_s=0.0)
        loads.loaded("a")
        loads.used("a")
        assert loads.may_try(now_s=1.0) == is_paying
    loads.begin("b", b"1", now_s=0.0, load_s=1.0)
    loads.gave_up("b", now_s=0.0)
    assert loads.may_try(now_s=1.0) and loads.is_held(now_s=1.0)
