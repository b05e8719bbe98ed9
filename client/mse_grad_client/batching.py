"""Batching of many small gradients into few requests."""

from __future__ import annotations

import copy
import sys
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mse_grad.reasons import ContractError, Reason
from mse_grad.tensor import Array
from mse_grad_client.errors import InvalidArgument, MseGradError, from_contract_error
from mse_grad_client.pytorch import are_tensors
from mse_grad_client.request import Empty, GradientRequest, Operands
from mse_grad_client.stream.pending import PendingRequest

__all__ = ["compute_packed"]

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


def compute_packed(
    items: Iterable[Sequence[ArrayLike]],
    reduction: str,
    *,
    start: Callable[[GradientRequest], PendingRequest | None],
    finish: Callable[[GradientRequest, PendingRequest | None], None],
    cancel: Callable[[GradientRequest, PendingRequest], None],
    empty: Empty = np.empty,
    return_errors: bool = False,
) -> list[Array | MseGradError]:
    """Returns the gradient of each item, or the error that the item failed with.

    Args:
        items: predict, label and dout of each item. Those of a list or tuple all exist at once and are used in place.
            Items of other iterables are copied as they arrive, because their maker may reuse the arrays.
        reduction: The reduction of each loss.
        start: Sends a request and returns it; None if that failed.
        finish: Fills the gradient of a request, with retries; raises MseGradError.
        cancel: Gives up a request that was sent.
        empty: Makes the arrays in which operands are packed.
        return_errors: Whether to return errors; otherwise the first one is raised once every item has ended.

    Raises:
        InvalidArgument: `items` is not iterable.
        MseGradError: As said of `return_errors`.
    """
    if not isinstance(items, Iterable):
        raise InvalidArgument(
            f"items is a {type(items).__name__}; it must hold (predict, label, dout) for each gradient"
        )
    results: dict[int, Array | MseGradError] = {}
    sent: deque[tuple[_Pack, GradientRequest, PendingRequest | None]] = deque()

    def finish_oldest() -> None:
        pack, request, pending = sent[0]
        try:
            finish(request, pending)
        except MseGradError as error:
            results.update((position, copy.copy(error)) for position in pack.positions)
        else:
            results.update(zip(pack.positions, pack.gradients(request), strict=True))
        sent.popleft()

    try:
        for pack in _packed(items, reduction, results, empty):
            if len(sent) == _PACKS_IN_FLIGHT:
                finish_oldest()
            request = pack.request(empty)
            sent.append((pack, request, start(request)))
        while sent:
            finish_oldest()
    finally:
        for _, request, pending in sent:
            if pending is not None:
                cancel(request, pending)
    ordered = [results[position] for position in range(len(results))]
    for result in ordered:
        if isinstance(result, MseGradError) and not return_errors:
            raise result
    return ordered


def _packed(
    items: Iterable[Sequence[ArrayLike]], reduction: str, results: dict[int, Array | MseGradError], empty: Empty
) -> Iterator[_Pack]:
    """Yields packs as they fill; puts the error of an invalid item into `results`."""
    filling: dict[Hashable, _Pack] = {}
    has_torch = "torch" in sys.modules
    stays = type(items) in (list, tuple)
    for position, item in enumerate(items):
        try:
            predict, label, dout = _three(item, position)
            if has_torch and are_tensors(predict, label, dout):
                raise _refused(
                    f"item {position} holds torch tensors; compute_many takes arrays, compute takes tensors too"
                )
            operands = Operands.checked(predict, label, dout, reduction)
        except InvalidArgument as refused:
            results[position] = refused
            continue
        except ContractError as broken:
            named = ContractError(broken.reason, broken.field, f"item {position}: {broken}")
            results[position] = from_contract_error(named)
            continue
        is_alone = operands.predict.nbytes >= _PACK_BYTES
        if not stays:
            # An item that travels alone is copied into shared memory now, a packed one with its pack.
            operands = operands.copied(empty if is_alone else None)
        key = operands.pack_key
        pack = filling.get(key) or filling.setdefault(key, _Pack())
        pack.add(position, operands)
        if key is None or pack.size_bytes >= _PACK_BYTES:
            yield filling.pop(key)
    yield from filling.values()


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
