"""Gradients per second of several client processes at a time, interleaved over the rows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from benchmarks.peers.environments import NotAvailable
from benchmarks.peers.figures import Absence, Figure
from benchmarks.peers.measure import ROUNDS_AT_LEAST, Course, absence_of
from benchmarks.peers.participants import Participant
from benchmarks.peers.processes import Client

__all__ = ["throughput"]

_TURN_AT_LEAST_S, _TURN_AT_MOST_S = 0.1, 0.25
# Time that the command needs to reach every process.
_AHEAD_NS = 20_000_000


def throughput(
    participants: Sequence[Participant], course: Course, *, clients: int
) -> tuple[list[Figure], list[Absence]]:
    """Counts the gradients of several client processes of each participant, all calling at the same time."""
    turn_s = min(_TURN_AT_MOST_S, course.budget_s / (course.rounds * len(participants)))
    turn_s = max(_TURN_AT_LEAST_S, turn_s)
    teams = [_Team(one, clients) for one in participants]
    try:
        for team in teams:
            team.prepare(course)
        deadline = time.monotonic() + course.budget_s
        for number in range(course.rounds):
            if number >= ROUNDS_AT_LEAST and time.monotonic() >= deadline:
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
            self.absence = absence_of(self._participant, course, why)

    def take_turn(self, turn_s: float, course: Course) -> None:
        if self.absence is not None:
            return
        start_ns = time.monotonic_ns() + _AHEAD_NS
        end_ns = start_ns + int(turn_s * 1e9)
        try:
            for client in self._clients():
                client.send("count", start_ns=start_ns, end_ns=end_ns)
            calls = sum(client.answer()["calls"] for client in self._clients())
        except NotAvailable as why:
            self.absence = absence_of(self._participant, course, why)
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
