from __future__ import annotations

import math
import random

from mse_grad_server.engine.fair_queue import PATIENCE_S, FairQueue, due_s


def filled(items: dict[str, float]) -> FairQueue[str]:
    """Returns a queue of items, whose first letter is their client, with the times by which they are due."""
    queue: FairQueue[str] = FairQueue()
    for item, due in items.items():
        queue.put(item, client=item[0], due_s=due)
    return queue


def order(queue: FairQueue[str]) -> list[str]:
    return [queue.pop() for _ in range(len(queue))]


def test_each_client_has_its_turn_whatever_others_put() -> None:
    queue = filled({f"a{number}": 0.0 for number in range(64)} | {"b0": 9.0, "c0": 5.0, "b1": 1.0})
    assert order(queue)[:6] == ["a0", "b1", "c0", "a1", "b0", "a2"]


def test_a_client_that_comes_while_another_one_is_served_is_next_and_does_not_starve_it() -> None:
    queue = filled({f"a{number}": 0.0 for number in range(64)})
    assert [queue.pop() for _ in range(8)] == [f"a{number}" for number in range(8)]
    served = []
    for number in range(4):
        for client in "bc":
            queue.put(f"{client}{number}", client=client, due_s=99.0)
        served += [queue.pop() for _ in range(3)]
    assert served[:3] == ["b0", "c0", "a8"]
    assert sorted(served) == sorted(
        [f"{client}{number}" for client in "bc" for number in range(4)] + ["a8", "a9", "a10", "a11"]
    )


def test_a_client_that_had_its_turn_cannot_have_another_one_in_the_same_round() -> None:
    queue = filled({"a0": 0.0, "b0": 0.0, "c0": 0.0})
    assert queue.pop() == "a0"
    queue.put("a1", client="a", due_s=0.0)
    assert order(queue) == ["b0", "c0", "a1"]


def test_the_items_of_one_client_are_served_by_their_time_and_then_by_their_age() -> None:
    assert order(filled({"a0": 2.0, "a1": 1.0, "a2": 2.0, "a3": 1.0})) == ["a1", "a3", "a0", "a2"]


def test_an_item_that_is_left_is_not_served_and_costs_no_turn() -> None:
    queue = filled({"a0": 0.0, "a1": 1.0, "a2": 2.0, "b0": 0.0, "b1": 1.0})
    for item in ("a0", "b1", "b1", "nothing"):
        queue.discard(item)
    assert (len(queue), queue.waiting("a"), queue.waiting("b"), queue.waiting("c")) == (3, 2, 1, 0)
    assert order(queue) == ["a1", "b0", "a2"]
    assert queue.first() is None


def test_a_client_whose_first_item_may_not_pass_loses_no_place() -> None:
    queue = filled({"a0": 0.0, "b0": 0.0})
    assert queue.first(lambda item: item[0] != "a") == "b0"
    assert queue.first(lambda item: False) is None
    assert queue.first() == "a0"


def test_items_that_come_and_are_left_again_do_not_fill_the_memory() -> None:
    queue = filled({"a-first": 0.0})
    for number in range(10_000):
        queue.put(f"a{number}", client="a", due_s=1.0 + number)
        queue.discard(f"a{number}")
    assert len(queue._lines["a"].places) <= 2


def test_any_order_of_puts_and_discards_serves_what_is_left_by_its_time() -> None:
    choose = random.Random(0)
    for _ in range(50):
        due = {f"a{number}": choose.choice((1.0, 2.0, 3.0)) for number in range(40)}
        queue = filled(due)
        left = {item for item in due if choose.random() < 0.5}
        for item in left:
            queue.discard(item)
        wanted = [item for item in sorted(due, key=lambda item: (due[item], int(item[1:]))) if item not in left]
        assert order(queue) == wanted


def test_a_request_without_a_deadline_does_not_starve_behind_requests_with_early_ones() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.put("patient", client="a", due_s=due_s(math.inf, 0.0))
    queue.put("late", client="a", due_s=due_s(3600.0, 0.0))
    served = []
    now_s, number = 0.0, 0
    while len(queue) and number < 1000:  # each 50 ms another request comes that has 100 ms, and one is served
        queue.put(f"urgent{number}", client="a", due_s=due_s(now_s + 0.1, now_s))
        served.append(queue.pop())
        now_s += 0.05
        number += 1
        if "late" in served:
            break
    assert served.index("patient") < served.index("late") <= PATIENCE_S / 0.05 + 3
