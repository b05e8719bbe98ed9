"""Interleaved measuring: everyone a little in each round, in rotating order, so that noise meets all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.crew import Participant
from benchmarks.peers.environments import NotAvailable
from benchmarks.peers.figures import Absence, Figure
from benchmarks.peers.processes import Client
from benchmarks.peers.roster import Row

__all__ = ["Course", "race", "rush"]

_CALLS_AT_MOST = 200
_TURN_AT_MOST_S = 0.1
_RUSH_AT_LEAST_S, _RUSH_AT_MOST_S = 0.1, 0.25
# Whatever the budget.
_ROUNDS_AT_LEAST = 3
_SHARE_AT_LEAST_S = 1.5
# A first call pays for pages and connections; it counts only where a second one would take too long.
_FIRST_COUNTS_FROM_S = 5.0
# For the command to reach four processes.
_RUSH_AHEAD_NS = 20_000_000


@dataclass(frozen=True)
class Course:
    """What is measured at a time.

    Attributes:
        name: For people.
        elements: Of each tensor of a gradient.
        dtype: Name of their type.
        folder_of: Gives the folder with a row's operands.
        rounds: Times that each gets a turn.
        budget_s: About how long all of it may take; a few rounds are made whatever they take.
    """

    name: str
    elements: int
    dtype: str
    folder_of: Callable[[Row], Path]
    rounds: int
    budget_s: float


def race(participants: Sequence[Participant], course: Course) -> tuple[list[Figure], list[Absence]]:
    """Measures one client of each participant; returns the figures, and who failed.

    Who needs more than its share of the budget gets fewer turns.
    """
    deadline = time.monotonic() + course.budget_s
    share_s = course.budget_s / len(participants)
    turn_s = min(_TURN_AT_MOST_S, share_s / (2 * course.rounds))
    share_s = max(_SHARE_AT_LEAST_S, share_s)
    runners = [_Runner(one, course, share_s, turn_s) for one in participants]
    for runner in runners:
        runner.prepare()
    for number in range(course.rounds):
        if number >= _ROUNDS_AT_LEAST and time.monotonic() >= deadline:
            break
        for turn in range(len(runners)):
            runners[(number + turn) % len(runners)].take_turn()
    figures = [figure for runner in runners if (figure := runner.figure()) is not None]
    return figures, [runner.absence for runner in runners if runner.absence is not None]


def rush(participants: Sequence[Participant], course: Course, *, clients: int) -> tuple[list[Figure], list[Absence]]:
    """Counts the gradients of several client processes of each participant, all calling at the same time."""
    turn_s = min(_RUSH_AT_MOST_S, course.budget_s / (course.rounds * len(participants)))
    turn_s = max(_RUSH_AT_LEAST_S, turn_s)
    teams = [_Team(one, clients) for one in participants]
    try:
        for team in teams:
            team.prepare(course)
        deadline = time.monotonic() + course.budget_s
        for number in range(course.rounds):
            if number >= _ROUNDS_AT_LEAST and time.monotonic() >= deadline:
                break
            for turn in range(len(teams)):
                teams[(number + turn) % len(teams)].take_turn(turn_s, course)
    finally:
        others = [other for team in teams for other in team.others]
        for other in others:
            other.ask_to_end()
        for other in others:
            other.close()
    figures = [figure for team in teams if (figure := team.figure(course)) is not None]
    return figures, [team.absence for team in teams if team.absence is not None]


class _Runner:
    def __init__(self, participant: Participant, course: Course, share_s: float, turn_s: float) -> None:
        self.absence: Absence | None = None
        self._participant = participant
        self._course = course
        self._share_ns = share_s * 1e9
        self._turn_s = turn_s
        self._times_ns: list[int] = []

    def prepare(self) -> None:
        row = self._participant.row
        answer = self._ask("prepare", folder=str(self._course.folder_of(row)), items=row.items)
        if answer is not None and answer["first_ns"] >= max(self._share_ns, _FIRST_COUNTS_FROM_S * 1e9):
            self._times_ns.append(answer["first_ns"])

    def take_turn(self) -> None:
        if self.absence is not None or sum(self._times_ns) >= self._share_ns:
            return
        answer = self._ask("turn", budget_s=self._turn_s, calls=_CALLS_AT_MOST)
        if answer is not None:
            self._times_ns += answer["times_ns"]

    def figure(self) -> Figure | None:
        if self.absence is None:
            self._ask("forget")
        if not self._times_ns:
            return None
        course, participant = self._course, self._participant
        return Figure.of_times(participant.row, participant.version, course.elements, course.dtype, self._times_ns)

    def _ask(self, do: str, **arguments: object) -> Any:
        try:
            return self._participant.client.ask(do, **arguments)
        except NotAvailable as why:
            self.absence = _absence(self._participant, self._course, why)
            return None


class _Team:
    def __init__(self, participant: Participant, clients: int) -> None:
        self.absence: Absence | None = None
        self._participant = participant
        self.others = [participant.another_client(number) for number in range(1, clients)]
        self._rates: list[float] = []
        self._calls = 0

    def prepare(self, course: Course) -> None:
        row = self._participant.row
        try:
            for other in self.others:
                other.version()
            for client in self._clients():
                client.ask("prepare", folder=str(course.folder_of(row)), items=row.items)
        except NotAvailable as why:
            self.absence = _absence(self._participant, course, why)

    def take_turn(self, turn_s: float, course: Course) -> None:
        if self.absence is not None:
            return
        start_ns = time.monotonic_ns() + _RUSH_AHEAD_NS
        end_ns = start_ns + int(turn_s * 1e9)
        try:
            for client in self._clients():
                client.send("rush", start_ns=start_ns, end_ns=end_ns)
            calls = sum(client.answer()["calls"] for client in self._clients())
        except NotAvailable as why:
            self.absence = _absence(self._participant, course, why)
            return
        self._calls += calls
        self._rates.append(calls * self._participant.row.items / turn_s)

    def figure(self, course: Course) -> Figure | None:
        if not self._rates:
            return None
        return Figure(
            *self._participant.row.key,
            version=self._participant.version,
            elements=course.elements,
            dtype=course.dtype,
            clients=1 + len(self.others),
            calls=self._calls,
            p50_us=None,
            p99_us=None,
            gb_per_s=None,
            gradients_per_s=statistics.median(self._rates),
        )

    def _clients(self) -> list[Client]:
        return [self._participant.client, *self.others]


def _absence(participant: Participant, course: Course, why: NotAvailable) -> Absence:
    return Absence(*participant.row.key, during=course.name, not_available=str(why))
