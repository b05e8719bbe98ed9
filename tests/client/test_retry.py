from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import mse_grad_client
from mse_grad.reasons import Reason
from mse_grad_client import MseGradError, RetryOptions, errors
from mse_grad_client.retry import Replaced, Retries, RetryBudget, Step, StreamStale, Wake, with_retries
from mse_grad_client.routing import waiter
from support.client.scripted_server import status_of


class Time:
    """A clock that jumps ahead instead of waiting; records the length of each wait."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.waits_s: list[float] = []
        self.wake = Wake.TIME
        self.wanted_room: list[bool] = []

    def now(self) -> float:
        return self.now_s

    async def pause(self, pause_s: float, wants_room: bool) -> Wake:
        self.waits_s.append(pause_s)
        self.wanted_room.append(wants_room)
        if self.wake is not Wake.ROOM:
            self.now_s += pause_s
        return self.wake


@pytest.fixture
def time() -> Time:
    return Time()


def run(time: Time, attempt: Callable[[], str], *, left_s: float | None = None, **options: Any) -> str:
    deadline = None if left_s is None else time.now() + left_s
    budget = RetryBudget(options.pop("max_per_s", 1000.0), now=time.now)
    retry = RetryOptions(**options)

    async def attempting() -> str:
        return attempt()

    retries = Retries(retry, budget, deadline=deadline, pause=time.pause, now=time.now)
    return waiter.run(lambda: with_retries(attempting, retries))


def failing(*failures: MseGradError) -> Callable[[], str]:
    remaining = list(failures)

    def attempt() -> str:
        if remaining:
            raise remaining.pop(0)
        return "done"

    return attempt


def busy(retry_delay_ms: int = 0) -> MseGradError:
    return errors.from_status(status_of(Reason.SERVER_BUSY, "busy", retry_delay_ms=retry_delay_ms))


def away() -> MseGradError:
    return errors.Unavailable("nobody listens", reason=Reason.CONNECTION_LOST)


def test_waits_grow_up_to_their_bound(time: Time) -> None:
    assert run(time, failing(*[busy()] * 6), initial_backoff_s=0.1, max_backoff_s=1.0) == "done"
    for wait_s, bound_s in zip(time.waits_s, [0.1, 0.2, 0.4, 0.8, 1.0, 1.0], strict=True):
        assert bound_s / 2 <= wait_s <= bound_s


def test_only_a_busy_server_may_soon_have_room(time: Time) -> None:
    assert run(time, failing(busy(), away())) == "done"
    assert time.wanted_room == [True, False]


def test_a_retry_into_room_that_answers_made_takes_no_token_and_lengthens_no_later_wait(time: Time) -> None:
    time.wake = Wake.ROOM
    assert run(time, failing(*[busy()] * 500), initial_backoff_s=0.1, max_per_s=1.0) == "done"
    assert max(time.waits_s[1:]) <= 1.1


def test_the_servers_delay_is_kept_with_a_random_part_on_top(time: Time) -> None:
    for _ in range(20):
        assert run(time, failing(busy(5000))) == "done"
    assert all(5.05 <= wait_s <= 5.1 for wait_s in time.waits_s)
    assert len(set(time.waits_s)) > 10


def test_a_call_is_retried_until_its_time_is_over(time: Time) -> None:
    began_s, tries = time.now(), 0

    def attempt() -> str:
        nonlocal tries
        tries += 1
        raise away()

    with pytest.raises(mse_grad_client.Unavailable):
        run(time, attempt, left_s=40.0)
    assert 39.8 <= time.now() - began_s < 40.0
    assert 20 < tries < 60


def test_a_server_that_comes_back_just_before_the_end_is_found(time: Time) -> None:
    back_s = time.now() + 39.0

    def attempt() -> str:
        if time.now() < back_s:
            raise away()
        return "done"

    assert run(time, attempt, left_s=40.0) == "done"


def test_a_call_without_a_timeout_is_retried_until_the_patience_after_its_first_failure_is_over(time: Time) -> None:
    began_s = time.now()

    def attempt() -> str:
        if time.now() == began_s:
            time.now_s += 1000.0  # the attempt takes this long and then fails
        raise away()

    with pytest.raises(mse_grad_client.Unavailable):
        run(time, attempt, patience_s=10.0)
    assert 1009.8 <= time.now() - began_s < 1010.0


@pytest.mark.parametrize("max_attempts", [1, 3])
def test_attempts_may_be_bounded(time: Time, max_attempts: int) -> None:
    with pytest.raises(mse_grad_client.ResourceExhausted):
        run(time, failing(*[busy()] * max_attempts), max_attempts=max_attempts)
    assert len(time.waits_s) == max_attempts - 1


@pytest.mark.parametrize(
    "failure",
    [errors.InvalidArgument("wrong", reason=Reason.SHAPE_MISMATCH), errors.InternalError("broken")],
    ids=["a wrong request", "a failed server"],
)
def test_an_error_is_raised_if_another_try_cannot_help(time: Time, failure: MseGradError) -> None:
    with pytest.raises(type(failure)):
        run(time, failing(failure))
    assert time.waits_s == []


def test_a_wait_that_would_pass_the_deadline_is_not_begun(time: Time) -> None:
    with pytest.raises(mse_grad_client.ResourceExhausted):
        run(time, failing(busy(60_000)), left_s=59.0)
    assert time.waits_s == []


def test_a_client_that_closes_stops_trying(time: Time) -> None:
    time.wake = Wake.CLOSED
    with pytest.raises(mse_grad_client.ResourceExhausted):
        run(time, failing(busy(), busy()))
    assert len(time.waits_s) == 1


def test_the_first_failures_of_many_callers_wait_for_no_token_and_the_rest_take_turns() -> None:
    budget = RetryBudget(10.0, now=lambda: 1000.0)
    assert [budget.take() for _ in range(10)] == pytest.approx([0.0] * 10)
    assert [budget.take() for _ in range(3)] == pytest.approx([0.1, 0.2, 0.3])


def test_tokens_return_with_time_up_to_those_of_a_second() -> None:
    now_s = 1000.0
    budget = RetryBudget(10.0, now=lambda: now_s)
    for _ in range(15):
        budget.take()
    now_s += 1.0
    assert [budget.take() for _ in range(6)] == pytest.approx([0.0] * 5 + [0.1])
    now_s += 1000.0
    assert [budget.take() for _ in range(11)] == pytest.approx([0.0] * 10 + [0.1])


def test_a_caller_waits_for_its_token(time: Time) -> None:
    with pytest.raises(mse_grad_client.ResourceExhausted):
        run(time, failing(*[busy()] * 4), max_attempts=4, max_per_s=0.5)
    assert [wait_s > 0.9 for wait_s in time.waits_s] == [True] * 3


def retries(time: Time, **options: Any) -> Retries:
    budget = RetryBudget(1000.0, now=time.now)
    return Retries(RetryOptions(**options), budget, deadline=None, pause=time.pause, now=time.now)


def steps(of: Retries, *failures: MseGradError, **facts: bool) -> list[Step | None]:
    taken = []
    for failure in failures:
        waiter.run(lambda failure=failure: of.should_retry(failure, **facts))  # type: ignore[misc]
        taken.append(of.step)
    return taken


def test_a_request_of_a_replaced_connection_is_retried_at_once_however_often(time: Time) -> None:
    replaced = Replaced("the process is forking", reason=Reason.CONNECTION_LOST)
    assert steps(retries(time, max_attempts=1), *[replaced] * 5) == [Step.AT_ONCE] * 5
    assert time.waits_s == []


def test_a_request_that_shared_memory_failed_goes_over_the_stream_at_once(time: Time) -> None:
    assert steps(retries(time, max_attempts=1), away(), falls_back=True) == [Step.BY_STREAM]


@pytest.mark.parametrize("max_attempts", [1, None])
def test_a_stale_stream_is_replaced_at_once_and_once_an_attempt(time: Time, max_attempts: int | None) -> None:
    stale = StreamStale.of(away())
    last = Step.GIVE_UP if max_attempts else Step.WAIT
    assert steps(retries(time, max_attempts=max_attempts), stale, stale) == [Step.AT_ONCE, last]


def test_a_request_that_one_worker_fails_goes_to_another_at_once_and_once_an_attempt(time: Time) -> None:
    state = retries(time, max_attempts=2)
    taken = steps(state, *[away()] * 4, other_worker=True)
    assert taken == [Step.AT_ONCE, Step.WAIT, Step.AT_ONCE, Step.GIVE_UP]
    assert len(time.waits_s) == 1


def test_without_retries_no_other_worker_is_tried(time: Time) -> None:
    assert steps(retries(time, max_attempts=1), away(), other_worker=True) == [Step.GIVE_UP]


def test_callers_see_the_plain_error_of_a_stale_stream() -> None:
    failure = errors.Unavailable("gone", reason=Reason.DRAINING, request_id="r-1", retry_delay_s=2.0)
    plain = StreamStale.of(failure).plain()
    assert type(plain) is mse_grad_client.Unavailable
    assert (str(plain), plain.__dict__) == (str(failure), failure.__dict__)


def test_calls_that_give_up_leave_their_retries_to_later_ones(time: Time) -> None:
    budget = RetryBudget(10.0, now=time.now)

    def run_once(attempt: Callable[[], str]) -> str:
        async def attempting() -> str:
            return attempt()

        retries = Retries(RetryOptions(), budget, deadline=None, pause=time.pause, now=time.now)
        return waiter.run(lambda: with_retries(attempting, retries))

    for _ in range(1000):
        with pytest.raises(MseGradError):
            run_once(failing(busy(retry_delay_ms=10**9)))
    assert run_once(failing(busy())) == "done"
    (wait_s,) = time.waits_s
    assert wait_s < 1.0
