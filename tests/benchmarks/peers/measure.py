"""Interleaved timing of one client for each row: each round measures each row briefly, in rotating order.

This way noise of the machine affects all rows alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from benchmarks.peers.environments import NotAvailable
from benchmarks.peers.figures import Absence, Figure
from benchmarks.peers.participants import Participant
from benchmarks.peers.rows import Row

__all__ = ["ROUNDS_AT_LEAST", "Course", "absence_of", "measure"]

# The minimum, however small the budget is.
ROUNDS_AT_LEAST = 3
_SHARE_AT_LEAST_S = 1.5
_CALLS_AT_MOST = 200
_TURN_AT_MOST_S = 0.1
# A first call pays for pages and connections; it counts only if a second call would take too long.
_FIRST_COUNTS_FROM_S = 5.0


@dataclass(frozen=True)
class Course:
    """One size, dtype and number of clients.

    Attributes:
        name: Name for people.
        elements: Elements of each tensor of a gradient.
        dtype: Name of their type.
        folder_of: Returns the folder with a row's operands.
        rounds: Turns of each row.
        budget_s: About how long the course may take; a few rounds are made however long they take.
    """

    name: str
    elements: int
    dtype: str
    folder_of: Callable[[Row], Path]
    rounds: int
    budget_s: float


def measure(participants: Sequence[Participant], course: Course) -> tuple[list[Figure], list[Absence]]:
    """Measures one client of each participant; returns the figures, and the rows that failed.

    A row that needs more than its share of the budget gets fewer turns.
    """
    deadline = time.monotonic() + course.budget_s
    share_s = course.budget_s / len(participants)
    turn_s = min(_TURN_AT_MOST_S, share_s / (2 * course.rounds))
    share_s = max(_SHARE_AT_LEAST_S, share_s)
    runners = [_Runner(one, course, share_s, turn_s) for one in participants]
    for runner in runners:
        runner.prepare()
    for number in range(course.rounds):
        if number >= ROUNDS_AT_LEAST and time.monotonic() >= deadline:
            break
        for turn in range(len(runners)):
            runners[(number + turn) % len(runners)].take_turn()
    figures = [figure for runner in runners if (figure := runner.figure()) is not None]
    return figures, [runner.absence for runner in runners if runner.absence is not None]


def absence_of(participant: Participant, course: Course, why: NotAvailable) -> Absence:
    """Returns the record of a row that failed during the course."""
    return Absence(*participant.row.key, during=course.name, not_available=str(why))


class _Processors:
    """Processor time of a process and its children over several turns.

    Attributes:
        ns: The sum over the turns, in nanoseconds.
    """

    def __init__(self, pid: int) -> None:
        self.ns = 0
        self._process = psutil.Process(pid)

    def __enter__(self) -> Self:
        self.ns -= self._used_ns()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.ns += self._used_ns()

    def _used_ns(self) -> int:
        # The clock of another process, by Linux's numbering; psutil's figures have steps of 10 ms.
        pids = [self._process.pid, *(child.pid for child in self._process.children(recursive=True))]
        return sum(time.clock_gettime_ns(~pid << 3 | 2) for pid in pids)


class _Runner:
    def __init__(self, participant: Participant, course: Course, share_s: float, turn_s: float) -> None:
        self.absence: Absence | None = None
        self._participant = participant
        self._course = course
        self._share_ns = share_s * 1e9
        self._turn_s = turn_s
        self._times_ns: list[int] = []
        self._calls = 0
        server_pid = participant.server_pid
        self._client = _Processors(participant.client.pid)
        self._server = None if server_pid is None else _Processors(server_pid)

    def prepare(self) -> None:
        row = self._participant.row
        answer = self._ask("prepare", folder=str(self._course.folder_of(row)), items=row.items)
        if answer is not None and answer["first_ns"] >= max(self._share_ns, _FIRST_COUNTS_FROM_S * 1e9):
            self._times_ns.append(answer["first_ns"])

    def take_turn(self) -> None:
        if self.absence is not None or sum(self._times_ns) >= self._share_ns:
            return
        with self._client, self._server or nullcontext():
            answer = self._ask("turn", budget_s=self._turn_s, calls=_CALLS_AT_MOST)
        if answer is not None:
            self._times_ns += answer["times_ns"]
            self._calls += answer["calls"]

    def figure(self) -> Figure | None:
        if self.absence is None:
            self._ask("forget")
        if not self._times_ns:
            return None
        course, participant = self._course, self._participant
        return Figure.of_times(
            participant.row,
            participant.version,
            course.elements,
            course.dtype,
            self._times_ns,
            client_ns=self._client.ns / self._calls if self._calls else None,
            server_ns=self._server.ns / self._calls if self._server is not None and self._calls else None,
        )

    def _ask(self, do: str, **arguments: object) -> Any:
        try:
            return self._participant.client.ask(do, **arguments)
        except NotAvailable as why:
            self.absence = absence_of(self._participant, self._course, why)
            return None
