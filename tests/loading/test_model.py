from __future__ import annotations

import threading

from cachegen.loading.model import ModelQueue


def test_turns_come_in_the_order_they_were_asked_for() -> None:
    model_queue = ModelQueue()
    queue = [model_queue.queue(None) for _ in range(6)]
    for number, turn in enumerate(queue):
        assert [other.come.is_set() for other in queue[number:]] == [True] + [False] * (5 - number)
        model_queue.end(turn)


def test_a_turn_is_waited_for() -> None:
    model_queue = ModelQueue()
    first, second = model_queue.queue(None), model_queue.queue(None)
    threading.Timer(0.1, model_queue.end, (first,)).start()
    assert second.wait(lambda: False)


def test_who_gives_up_waits_no_longer() -> None:
    model_queue = ModelQueue()
    model_queue.queue(None)
    assert not model_queue.queue(None).wait(lambda: True)


def test_a_turn_is_taken_only_where_nobody_has_one() -> None:
    model_queue = ModelQueue()
    turn = model_queue.take(None)
    assert turn is not None and model_queue.take(None) is None
    model_queue.end(turn)
    model_queue.end(turn)
    assert model_queue.take(None) is not None


def test_a_turn_that_has_not_come_may_be_given_up() -> None:
    model_queue = ModelQueue()
    first, second, third = (model_queue.queue(None) for _ in range(3))
    model_queue.end(second)
    model_queue.end(first)
    assert third.come.is_set()


def test_users_of_a_model_are_counted() -> None:
    model_queue = ModelQueue()
    with model_queue.using(1, lambda: None), model_queue.using(2, lambda: None):
        assert model_queue.users == 2
    assert model_queue.users == 0


def test_who_had_the_model_lets_others_go_first() -> None:
    model_queue, woken = ModelQueue(), []
    with (
        model_queue.using(1, lambda: woken.append(1)),
        model_queue.using(2, lambda: woken.append(2)),
    ):
        turn = model_queue.take(1)
        assert turn is not None and turn.wait(lambda: False)
        model_queue.end(turn)
        assert sorted(woken) == [1, 2]
        assert model_queue.take(1) is None
        assert model_queue.take(2) is not None


def test_the_only_user_of_a_model_waits_for_nobody() -> None:
    model_queue = ModelQueue()
    with model_queue.using(1, lambda: None):
        for _ in range(3):
            turn = model_queue.take(1)
            assert turn is not None and turn.wait(lambda: False)
            model_queue.end(turn)
