from __future__ import annotations

import threading

import pytest

from cachegen.stream.sharing import (
    DecoderThreads,
    Link,
    Turns,
    link_to,
    measurements_of,
    turns_at,
)


def test_turns_come_in_the_order_they_were_asked_for() -> None:
    turns = Turns()
    queue = [turns.queue(None) for _ in range(6)]
    for number, turn in enumerate(queue):
        assert [other.come.is_set() for other in queue[number:]] == [True] + [False] * (5 - number)
        turns.end(turn)


def test_a_turn_is_waited_for() -> None:
    turns = Turns()
    first, second = turns.queue(None), turns.queue(None)
    threading.Timer(0.1, turns.end, (first,)).start()
    assert second.wait(lambda: False)


def test_who_gives_up_waits_no_longer() -> None:
    turns = Turns()
    turns.queue(None)
    assert not turns.queue(None).wait(lambda: True)


def test_a_turn_is_taken_only_where_nobody_has_one() -> None:
    turns = Turns()
    turn = turns.take(None)
    assert turn is not None and turns.take(None) is None
    turns.end(turn)
    turns.end(turn)
    assert turns.take(None) is not None


def test_a_turn_that_has_not_come_may_be_given_up() -> None:
    turns = Turns()
    first, second, third = (turns.queue(None) for _ in range(3))
    turns.end(second)
    turns.end(first)
    assert third.come.is_set()


def test_users_of_a_model_are_counted() -> None:
    turns = Turns()
    with turns.using(1, lambda: None), turns.using(2, lambda: None):
        assert turns.users == 2
    assert turns.users == 0


def test_who_had_the_model_lets_others_go_first() -> None:
    turns, woken = Turns(), []
    with turns.using(1, lambda: woken.append(1)), turns.using(2, lambda: woken.append(2)):
        turn = turns.take(1)
        assert turn is not None and turn.wait(lambda: False)
        turns.end(turn)
        assert sorted(woken) == [1, 2]
        assert turns.take(1) is None
        assert turns.take(2) is not None


def test_the_only_user_of_a_model_waits_for_nobody() -> None:
    turns = Turns()
    with turns.using(1, lambda: None):
        for _ in range(3):
            turn = turns.take(1)
            assert turn is not None and turn.wait(lambda: False)
            turns.end(turn)


def test_one_of_each_also_for_threads_at_once() -> None:
    barrier, found = threading.Barrier(8), []

    def make() -> None:
        barrier.wait(10)
        found.append(measurements_of(bytes([7]) * 32, "cpu"))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1


def test_a_link_remembers_silence_for_a_while() -> None:
    link = Link()
    assert not link.was_silent(0.0)
    link.went_silent(0.0)
    assert link.was_silent(9.0) and not link.was_silent(11.0)
    link.went_silent(None)
    assert not link.was_silent(1.0)


def test_a_link_is_divided_among_those_who_use_it() -> None:
    link = Link(prior_bytes_per_s=6e6)
    assert link.share(0.0, active=False)[0] == pytest.approx(6e6)
    link.begin(0.0)
    assert link.share(0.0, active=True)[0] == pytest.approx(6e6)
    assert link.share(0.0, active=False)[0] == pytest.approx(3e6)
    link.begin(0.0)
    assert link.share(0.0, active=True)[0] == pytest.approx(3e6)
    link.end(0.0)
    link.end(0.0)
    assert link.share(0.0, active=False)[0] == pytest.approx(6e6)


def test_a_link_of_which_nothing_is_known() -> None:
    link = Link()
    assert link.share(0.0, active=False) == (None, None)
    assert link.known(0.0) is None


def test_a_link_learns_from_what_arrives() -> None:
    link = Link()
    link.begin(0.0)
    for step in range(1, 101):
        link.arrived(10_000, step * 0.01)
    assert link.known(1.0)[0] == pytest.approx(1e6, rel=0.1)


def test_one_of_each_in_a_process() -> None:
    known = measurements_of(bytes(32), "cpu")
    assert known is measurements_of(bytes(32), "cpu")
    assert known is not measurements_of(bytes(32), "cuda:0")
    assert link_to("file:one", known) is link_to("file:one", known)
    assert link_to("file:one", known) is not link_to("file:two", known)
    assert turns_at(bytes(32), "cpu") is turns_at(bytes(32), "cpu")


def test_the_decoder_is_shared_by_those_who_wait_for_it() -> None:
    threads, hold, done = DecoderThreads(1), threading.Event(), threading.Semaphore(0)

    def work() -> None:
        hold.wait(10)
        done.release()

    assert threads.share(0) == 1
    for _ in range(3):
        threads.submit(work)
    assert [threads.share(own) for own in (0, 1, 3)] == [4, 3, 1]
    hold.set()
    for _ in range(3):
        assert done.acquire(timeout=10)
