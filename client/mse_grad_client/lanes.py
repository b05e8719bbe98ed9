"""Which requests travel through shared memory, and how their tensors lie there."""

from __future__ import annotations

import numpy as np

from mse_grad_client.handover import Handover
from mse_grad_client.options import ClientOptions
from mse_grad_client.region import Place, Region
from mse_grad_client.request import GradientRequest
from mse_grad_client.shared_exchange import Lane, Room, SharedExchange

__all__ = ["fits_packet", "is_worth_sharing", "shared_exchange"]

# Of one tensor in a chunk that is copied, and how many chunks are under way: together 24 MiB, which stay in the caches,
# while the next chunk is copied beside the kernel. Chunks of half of it cost a quarter more at 1M float32 elements, of
# twice a tenth at 16M; the stream takes four times as long at both. The CPU would do with two under way (3 % less at
# 16M); an NPU copies one in, computes one and copies one out at a time: with two it takes 1.6 times its longest stage.
_CHUNK_BYTES = 2 * 1024 * 1024
_SLOTS = 3
# Operands of a request that goes as a packet; with what a stream packs before it, one of 192 KiB holds it.
_MOST_IN_PACKET_BYTES = 72 * 1024


def is_worth_sharing(request: GradientRequest, region: Region, options: ClientOptions) -> bool:
    """Whether the request may gain from shared memory; cheap, as every request is asked."""
    size_bytes = len(request.predict)
    if size_bytes < options.copied_from_bytes and (size_bytes < options.shared_from_bytes or region.is_empty):
        return False
    region.settle()
    return size_bytes > 0


def fits_packet(request: GradientRequest) -> bool:
    """Whether the request may go as one packet, whatever waits to be packed with it."""
    return 2 * len(request.predict) + len(request.dout) <= _MOST_IN_PACKET_BYTES


def shared_exchange(
    request: GradientRequest,
    region: Region,
    handover: Handover,
    options: ClientOptions,
    *,
    request_id: str,
    deadline: float | None,
) -> SharedExchange | None:
    """Returns the request with what has to be copied in already, or None where it is to take another way.

    Args:
        request: What is asked for; it has elements.
        region: The client's memory.
        handover: Hands it over to the server.
        options: Those of the client.
        request_id: Its name.
        deadline: When to give up, of time.monotonic.
    """
    tensors = [request.predict, request.label]
    if not request.scalar_dout:
        tensors.append(request.dout)
    tensors.append(request.y)
    size = request.dtype.itemsize_bytes
    places = [_place(region, contents, size) for contents in tensors]
    chunk_elements, slots = request.count, 1
    if None in places:
        if len(request.predict) < options.copied_from_bytes:
            return None
        chunk_elements = min(request.count, _CHUNK_BYTES // size)
        slots = min(_SLOTS, -(-request.count // chunk_elements))
    lanes = []
    for contents, place in zip(tensors, places, strict=True):
        if place is not None:
            if not handover.has(place.segment):
                return None
            lanes.append(Lane(contents, place))
            continue
        rooms = [_room(region, handover, chunk_elements * size) for _ in range(slots)]
        if None in rooms:
            return None
        lanes.append(Lane(contents, None, [room for room in rooms if room is not None]))
    *operands, y = lanes
    return SharedExchange(
        request,
        request_id=request_id,
        deadline=deadline,
        operands=operands,
        y=y,
        chunk_elements=chunk_elements,
        slots=slots,
    )


def _place(region: Region, contents: memoryview, itemsize_bytes: int) -> Place | None:
    place = region.find(contents)
    return None if place is None or place.offset % itemsize_bytes else place  # the contract asks for whole elements


def _room(region: Region, handover: Handover, size_bytes: int) -> Room | None:
    contents = region.empty(size_bytes, np.uint8)
    place = region.find(contents.data)
    return Room(contents, place) if place is not None and handover.has(place.segment) else None
