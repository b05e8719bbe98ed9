"""Many small gradients as few requests."""

from __future__ import annotations

import copy
import sys
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from mse_grad.reasons import ContractError
from mse_grad.tensor import Array
from mse_grad_client.errors import InvalidArgument, MseGradError, from_contract_error
from mse_grad_client.request import Empty, GradientRequest, Operands
from mse_grad_client.torch import are_tensors

__all__ = ["compute_packed"]

# Measured with gradients of 64 to 16K elements: less leaves too many round trips, more delays the first answer.
_PACK_BYTES = 256 * 1024
# One is computed, one on its way each way, and one is packed or unpacked.
_PACKS_IN_FLIGHT = 4


class Flight(Protocol):
    """A request that was sent; see `transport.Flight`."""

    def finish(self) -> None:
        """Blocks until its gradient is whole; raises MseGradError."""

    def abandon(self) -> None:
        """Gives it up."""


class _Pack:
    """Items that go as one request."""

    def __init__(self) -> None:
        self.positions: list[int] = []
        self.operands: list[Operands] = []
        self.size_bytes = 0

    def add(self, position: int, operands: Operands) -> None:
        self.positions.append(position)
        self.operands.append(operands)
        self.size_bytes += operands.predict.nbytes

    def request(self, empty: Empty) -> GradientRequest:
        if len(self.operands) == 1:
            return GradientRequest.of(self.operands[0])
        return GradientRequest.pack(self.operands, empty=empty)

    def gradients(self, request: GradientRequest) -> Sequence[Array]:
        gradient = request.gradient()
        if len(self.operands) == 1:
            return [gradient]
        return [gradient[number, ...] for number in range(len(self.operands))]


def compute_packed(
    items: Iterable[Sequence[ArrayLike]],
    reduction: str,
    *,
    start: Callable[[GradientRequest], Flight],
    run: Callable[[GradientRequest], None],
    empty: Empty = np.empty,
) -> list[Array | MseGradError]:
    """Returns for each item its gradient, or the error that it alone failed with.

    Args:
        items: predict, label and dout of each.
        reduction: Of every loss.
        start: Sends a request once; raises MseGradError.
        run: Fills the gradient of a request that failed so, with all the tries there are; raises MseGradError.
        empty: Makes the arrays that operands are packed in.
    """
    results: dict[int, Array | MseGradError] = {}
    flights: deque[tuple[_Pack, GradientRequest, Flight | None]] = deque()

    def land() -> None:
        pack, request, flight = flights.popleft()
        try:
            if not _finished(flight):
                run(request)
        except MseGradError as error:
            results.update((position, copy.copy(error)) for position in pack.positions)
        else:
            results.update(zip(pack.positions, pack.gradients(request), strict=True))

    try:
        for pack in _packed(items, reduction, results):
            if len(flights) == _PACKS_IN_FLIGHT:
                land()
            request = pack.request(empty)
            flights.append((pack, request, _started(start, request)))
        while flights:
            land()
    finally:
        for _, _, flight in flights:
            if flight is not None:
                flight.abandon()
    return [results[position] for position in range(len(results))]


def _packed(
    items: Iterable[Sequence[ArrayLike]], reduction: str, results: dict[int, Array | MseGradError]
) -> Iterator[_Pack]:
    """Yields packs as they fill up; puts the error of an item that breaks a rule into `results`."""
    filling: dict[Hashable, _Pack] = {}
    has_torch = "torch" in sys.modules
    for position, item in enumerate(items):
        if len(item) != 3:
            raise ValueError(f"item {position} has {len(item)} operands; it must have 3: predict, label and dout")
        if has_torch and are_tensors(*item):
            text = f"item {position} holds torch tensors; compute_many takes arrays, compute takes tensors as well"
            results[position] = InvalidArgument(text)
            continue
        predict, label, dout = item
        try:
            operands = Operands.checked(predict, label, dout, reduction)
        except ContractError as broken:
            named = ContractError(broken.reason, broken.field, f"item {position}: {broken}")
            results[position] = from_contract_error(named)
            continue
        key = operands.pack_key
        pack = filling.get(key) or filling.setdefault(key, _Pack())
        pack.add(position, operands)
        if key is None or pack.size_bytes >= _PACK_BYTES:
            yield filling.pop(key)
    yield from filling.values()


def _started(start: Callable[[GradientRequest], Flight], request: GradientRequest) -> Flight | None:
    try:
        return start(request)
    except MseGradError:
        return None


def _finished(flight: Flight | None) -> bool:
    """Whether the gradient came with the first try."""
    try:
        if flight is None:
            return False
        flight.finish()
    except MseGradError:
        return False
    return True
