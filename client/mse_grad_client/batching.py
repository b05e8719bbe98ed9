"""Batching of many small gradients into few requests."""

from __future__ import annotations

import copy
import sys
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Hashable,
    Iterable,
    Mapping,
    Sequence,
    Set,
)
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mse_grad.reasons import ContractError, Reason
from mse_grad.tensor import Array
from mse_grad_client.errors import InvalidArgument, MseGradError, from_contract_error
from mse_grad_client.interceptor import CallInfo
from mse_grad_client.kinds import are_tensors
from mse_grad_client.operands import Empty, Operands
from mse_grad_client.request import GradientRequest
from mse_grad_client.routing.waiter import run
from mse_grad_client.stream.pending import PendingRequest

__all__ = ["PackedGradients", "all_results"]

# Size of a pack, measured with gradients of 64 to 16K elements: smaller packs need too many round trips, larger ones
# delay the first answer.
_PACK_BYTES = 256 * 1024
# One pack is computed, one travels in each direction, and one is packed or unpacked.
_PACKS_IN_FLIGHT = 4


class _Pack:
    """Items that travel as one request."""

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

    def gradients(self, request: GradientRequest) -> Sequence[Any]:
        gradient = request.gradient()
        if len(self.operands) == 1:
            return [gradient]
        return [
            gradient[number, ...] if operands.restore is None else operands.restore(gradient[number, ...])
            for number, operands in enumerate(self.operands)
        ]


class PackedGradients:
    """Gradients of many items, of which several packs are under way at a time.

    `next_results` until it returns None, then `cancel`, which also ends it early.

    Args:
        items: predict, label and dout of each item. Those of a list or tuple all exist at once and are used in place.
            Items of other iterables are copied as they arrive, because their maker may reuse the arrays.
        reduction: The reduction of each loss.
        call: The call that the requests belong to; None if it says nothing of itself.
        start: Sends a request and returns it; None if that failed.
        finish: Fills the gradient of a request, with retries; raises MseGradError.
        cancel: Gives up a request that was sent.
        empty: Makes the arrays in which operands are packed.
        takes_async: Whether `items` may be an asynchronous iterable.

    Raises:
        InvalidArgument: `items` is not iterable.
    """

    def __init__(
        self,
        items: Iterable[Sequence[ArrayLike]] | AsyncIterable[Sequence[ArrayLike]],
        reduction: str,
        *,
        call: CallInfo | None = None,
        start: Callable[[GradientRequest], Awaitable[PendingRequest | None]],
        finish: Callable[[GradientRequest, PendingRequest | None], Awaitable[None]],
        cancel: Callable[[GradientRequest, PendingRequest], Awaitable[None]],
        empty: Empty = np.empty,
        takes_async: bool = False,
    ) -> None:
        if not isinstance(items, Iterable) and not (takes_async and isinstance(items, AsyncIterable)):
            raise InvalidArgument(
                f"items is a {type(items).__name__}; it must hold (predict, label, dout) for each gradient"
            )
        self._items = iter(items) if isinstance(items, Iterable) else aiter(items)
        self._packer = _Packer(reduction, empty, stays=type(items) in (list, tuple))
        self._call = call
        self._start = start
        self._finish = finish
        self._cancel = cancel
        self._empty = empty
        self._sent: deque[tuple[_Pack, GradientRequest, PendingRequest | None]] = deque()

    async def next_results(self) -> dict[int, Array | MseGradError] | None:
        """Returns gradients, or errors, of further items by their positions; None after the last."""
        sent = self._sent
        while len(sent) < _PACKS_IN_FLIGHT and (pack := await self._next_pack()) is not None:
            request = pack.request(self._empty)
            request.call = self._call
            sent.append((pack, request, await self._start(request)))
        results = self._packer.refused
        self._packer.refused = {}
        if not sent:
            return results or None
        pack, request, pending = sent[0]
        try:
            await self._finish(request, pending)
        except MseGradError as error:
            results.update((position, copy.copy(error)) for position in pack.positions)
        else:
            results.update(zip(pack.positions, pack.gradients(request), strict=True))
        sent.popleft()
        return results

    async def cancel(self) -> None:
        """Gives up the packs that are under way."""
        while self._sent:
            _, request, pending = self._sent.popleft()
            if pending is not None:
                await self._cancel(request, pending)

    async def _next_pack(self) -> _Pack | None:
        if isinstance(self._items, AsyncIterator):
            async for item in self._items:
                if (pack := self._packer.add(item)) is not None:
                    return pack
        else:
            for item in self._items:
                if (pack := self._packer.add(item)) is not None:
                    return pack
        return self._packer.last()


def all_results(gradients: PackedGradients) -> list[Array | MseGradError]:
    """Returns all gradients, or errors, in the order of the items, in a blocked thread."""
    found: dict[int, Array | MseGradError] = {}
    try:
        while (results := run(gradients.next_results)) is not None:
            found.update(results)
    finally:
        run(gradients.cancel)
    return [found[position] for position in range(len(found))]


class _Packer:
    """Puts items into packs.

    Attributes:
        refused: Errors of invalid items by their positions.
    """

    def __init__(self, reduction: str, empty: Empty, *, stays: bool) -> None:
        self.refused: dict[int, Array | MseGradError] = {}
        self._reduction = reduction
        self._empty = empty
        self._stays = stays
        self._filling: dict[Hashable, _Pack] = {}
        self._count = 0
        self._has_torch = "torch" in sys.modules

    def add(self, item: Any) -> _Pack | None:
        """Adds the next item; returns a pack if one is full."""
        position = self._count
        self._count += 1
        try:
            predict, label, dout = _three(item, position)
            if self._has_torch and are_tensors(predict, label, dout):
                raise _refused(
                    f"item {position} holds torch tensors; compute_many takes arrays, compute takes tensors too"
                )
            operands = Operands.checked(predict, label, dout, self._reduction)
        except InvalidArgument as refused:
            self.refused[position] = refused
            return None
        except ContractError as broken:
            named = ContractError(broken.reason, broken.field, f"item {position}: {broken}")
            self.refused[position] = from_contract_error(named)
            return None
        is_alone = operands.predict.nbytes >= _PACK_BYTES
        if not self._stays:
            # An item that travels alone is copied into shared memory now, a packed one with its pack.
            operands = operands.copied(self._empty if is_alone else None)
        key = operands.pack_key
        pack = self._filling.get(key) or self._filling.setdefault(key, _Pack())
        pack.add(position, operands)
        return self._filling.pop(key) if key is None or pack.size_bytes >= _PACK_BYTES else None

    def last(self) -> _Pack | None:
        """Returns one of the packs that are not full; None if no items are left."""
        return self._filling.pop(next(iter(self._filling))) if self._filling else None


def _three(item: Any, position: int) -> Sequence[ArrayLike]:
    if type(item) is tuple and len(item) == 3:  # the usual case, checked first because it is cheap
        return item
    try:
        count = len(item)
    except TypeError:
        kind = f"{type(item).__name__}{' of rank 0' if isinstance(item, np.ndarray) else ''}"
        raise _refused(f"item {position} is a {kind}; it must be three operands: predict, label and dout") from None
    if isinstance(item, (Set, Mapping)):
        raise _refused(f"item {position} is a {type(item).__name__}; it must be predict, label and dout in this order")
    if count != 3:
        raise _refused(f"item {position} has {count} operands; it must have 3: predict, label and dout")
    operands: Sequence[ArrayLike] = item
    return operands


def _refused(message: str) -> InvalidArgument:
    return InvalidArgument(message, reason=Reason.OPERAND_UNSUPPORTED)
