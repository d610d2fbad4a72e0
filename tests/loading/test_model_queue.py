from __future__ import annotations

import threading

from cachegen.loading.model_queue import Turns


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
