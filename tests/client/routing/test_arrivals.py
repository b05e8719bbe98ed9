"""Waits of requests while no server is in use."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from mse_grad_client.errors import ClientClosed, DeadlineExceeded, MseGradError, Unavailable
from mse_grad_client.routing.arrivals import Arrivals
from support.waiting import PATIENCE_S


class Caller:
    """A thread that waits for a server.

    Attributes:
        error: How its wait failed, if it did.
    """

    def __init__(self, arrivals: Arrivals) -> None:
        self.error: MseGradError | None = None
        self._thread = threading.Thread(target=self._wait, args=(arrivals,))
        self._thread.start()

    def ended(self) -> MseGradError | None:
        """Returns its error once its wait has ended."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        return self.error

    def _wait(self, arrivals: Arrivals) -> None:
        try:
            arrivals.wait(lambda: False, deadline=None, target="a:1")
        except MseGradError as error:
            self.error = error


class Rounds:
    """The waits of a client whose rounds the test makes."""

    def __init__(self) -> None:
        self.wanted = threading.Semaphore(0)
        self.arrivals = Arrivals(self.wanted.release)

    def caller(self) -> Caller:
        """Returns a thread that waits by now."""
        caller = Caller(self.arrivals)
        assert self.wanted.acquire(timeout=PATIENCE_S)
        return caller


def test_a_wait_ends_at_once_if_a_server_is_there() -> None:
    Arrivals(pytest.fail).wait(lambda: True, deadline=None, target="a:1")


def test_a_server_that_arrives_ends_every_wait() -> None:
    rounds = Rounds()
    callers = [rounds.caller() for _ in range(3)]
    rounds.arrivals.begin_round()
    rounds.arrivals.arrived()
    assert [caller.ended() for caller in callers] == [None] * 3


def test_a_round_without_a_server_fails_the_waits_that_began_before_it() -> None:
    rounds = Rounds()
    rounds.arrivals.begin_round()
    late = rounds.caller()
    rounds.arrivals.end_round(Unavailable("the servers were asked before"))
    rounds.arrivals.begin_round()
    rounds.arrivals.end_round(Unavailable("no server is ready"))
    assert "no server is ready" in str(late.ended())


def out_of_time() -> float:
    return time.monotonic() - 1


@pytest.mark.parametrize(
    ("prepare", "kind"),
    [
        (lambda arrivals: None, DeadlineExceeded),
        (lambda arrivals: arrivals.end_round(Unavailable("no server is ready")), Unavailable),
        (lambda arrivals: (arrivals.end_round(Unavailable("old")), arrivals.arrived()), DeadlineExceeded),
    ],
    ids=["nothing is known", "the last round found none", "there was one since"],
)
def test_a_wait_that_is_out_of_time_says_what_the_last_round_found(
    prepare: Callable[[Arrivals], object], kind: type[MseGradError]
) -> None:
    arrivals = Arrivals(lambda: None)
    prepare(arrivals)
    with pytest.raises(kind):
        arrivals.wait(lambda: False, deadline=out_of_time(), target="a:1")


def test_closing_ends_waits_now_and_later() -> None:
    rounds = Rounds()
    caller = rounds.caller()
    rounds.arrivals.close(ClientClosed("closed"))
    assert isinstance(caller.ended(), ClientClosed)
    with pytest.raises(ClientClosed):
        rounds.arrivals.wait(lambda: True, deadline=None, target="a:1")
