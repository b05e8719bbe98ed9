"""Layout of a request in shared memory: which requests travel there, and where their tensors lie."""

from __future__ import annotations

import numpy as np

from mse_grad_client.options import ClientOptions
from mse_grad_client.request import GradientRequest
from mse_grad_client.shared_memory.allocator import Allocator, Place
from mse_grad_client.shared_memory.handover import Handover
from mse_grad_client.shared_memory.shared_exchange import CopySlot, Memory, SharedExchange, SharedTensor

__all__ = ["fits_packet", "is_worth_sharing", "shared_exchange"]

# Copied tensors travel in chunks of 2 MiB per tensor, 3 chunks in flight: 4 tensors x 2 MiB x 3 = 24 MiB. These stay
# in the caches while the next chunk is copied beside the kernel. Chunks of 1 MiB cost 25 % at 1M float32 elements, of
# 4 MiB 10 % at 16M; the stream takes four times as long at both. Two chunks in flight would do for the CPU (3 % less
# time at 16M). An NPU copies one in, computes one and copies one out at the same time: with two chunks in flight it
# takes 1.6 times its longest stage.
_CHUNK_BYTES = 2 * 1024 * 1024
_SLOTS = 3
# Operands of a request that travels as a packet. The server's packets hold 192 KiB: this, and all that may be packed
# before it.
_MAX_PACKET_OPERANDS_BYTES = 72 * 1024


def is_worth_sharing(request: GradientRequest, allocator: Allocator, options: ClientOptions) -> bool:
    """Whether shared memory may make the request faster. Cheap: it is called for each request."""
    size_bytes = len(request.predict)
    if size_bytes < options.copied_from_bytes and (size_bytes < options.shared_from_bytes or allocator.is_empty):
        return False
    allocator.settle()
    return size_bytes > 0


def fits_packet(request: GradientRequest, *, max_message_bytes: int) -> bool:
    """Whether the request fits into one packet, behind anything that waits to be packed with it.

    Args:
        request: The request.
        max_message_bytes: Largest message of the server; half of it is for the header.
    """
    most_bytes = min(_MAX_PACKET_OPERANDS_BYTES, max_message_bytes // 2)
    return 2 * len(request.predict) + len(request.dout) <= most_bytes


def shared_exchange(
    request: GradientRequest,
    allocator: Allocator,
    handover: Handover,
    memory: Memory,
    options: ClientOptions,
    *,
    request_id: str,
    deadline: float | None,
) -> SharedExchange | None:
    """Returns the exchange of a request, or None if the request cannot travel through shared memory.

    Args:
        request: The request; it has elements.
        allocator: Allocator of the client's memory.
        handover: Hands it over to the server.
        memory: Withdraws memory that the server may still write to after the caller has given up.
        options: Options of the client.
        request_id: Name of the request in the server's logs.
        deadline: Deadline of the caller on the clock of time.monotonic.
    """
    withdrawals = memory.withdrawals
    tensors = [request.predict, request.label]
    if not request.scalar_dout:
        tensors.append(request.dout)
    tensors.append(request.y)
    size = request.dtype.itemsize_bytes
    places = [_place(allocator, contents, size) for contents in tensors]
    chunk_elements, slots = request.count, 1
    if None in places:
        if len(request.predict) < options.copied_from_bytes:
            return None
        chunk_elements = min(request.count, _CHUNK_BYTES // size)
        slots = min(_SLOTS, -(-request.count // chunk_elements))
    shared: list[SharedTensor] = []
    for contents, place in zip(tensors, places, strict=True):
        if place is not None:
            if not handover.has(place.segment, deadline=deadline):
                return None
            shared.append(SharedTensor(contents, place))
            continue
        copies = [_copy_slot(allocator, handover, chunk_elements * size, deadline) for _ in range(slots)]
        if None in copies:
            return None
        shared.append(SharedTensor(contents, None, [copy for copy in copies if copy is not None]))
    *operands, y = shared
    return SharedExchange(
        request,
        request_id=request_id,
        deadline=deadline,
        operands=operands,
        y=y,
        chunk_elements=chunk_elements,
        slots=slots,
        memory=memory,
        withdrawals=withdrawals,
    )


def _place(allocator: Allocator, contents: memoryview, itemsize_bytes: int) -> Place | None:
    place = allocator.find(contents)
    return None if place is None or place.offset % itemsize_bytes else place  # the contract requires whole elements


def _copy_slot(allocator: Allocator, handover: Handover, size_bytes: int, deadline: float | None) -> CopySlot | None:
    contents = allocator.empty(size_bytes, np.uint8)
    place = allocator.find(contents.data)
    if place is None or not handover.has(place.segment, deadline=deadline):
        return None
    return CopySlot(contents, place)
