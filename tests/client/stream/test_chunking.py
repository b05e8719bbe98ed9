"""Sizes of chunks, windows and messages under the limits that a server names, sensible or not."""

from __future__ import annotations

from typing import Any

import pytest

from mse_grad.codec import Chunk, Header
from mse_grad.tensor import FLOAT32, Reduction
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_client import ClientOptions
from mse_grad_client.stream.chunking import chunk_elements, window_chunks
from mse_grad_client.stream.outbox import Outbox

KIB = 1024


def limits(**fields: Any) -> pb.Limits:
    return pb.Limits(
        **{"max_stream_message_bytes": 16 * KIB**2, "chunk_bytes": 512 * KIB, "window_chunks": 8, **fields}
    )


@pytest.mark.parametrize(
    ("fields", "options", "elements"),
    [
        ({}, {}, 128 * KIB),
        ({"chunk_bytes": 0}, {}, 128 * KIB),
        ({"chunk_bytes": 4}, {}, 256),
        ({"chunk_bytes": -(2**63)}, {}, 256),
        ({"chunk_bytes": 4}, {"chunk_bytes": 8}, 2),
        ({"max_stream_message_bytes": 64 * KIB}, {}, 32 * KIB // 3 // 4),
        ({"max_stream_message_bytes": 0}, {}, 32 * KIB // 3 // 4),
        ({"max_stream_message_bytes": -(2**63)}, {}, 32 * KIB // 3 // 4),
    ],
)
def test_a_chunk_is_neither_tiny_nor_larger_than_a_message(
    fields: dict[str, int], options: dict[str, Any], elements: int
) -> None:
    assert chunk_elements(limits(**fields), ClientOptions(**options), itemsize_bytes=4) == elements


@pytest.mark.parametrize(
    ("advised", "options", "chunks"),
    [(8, {}, 8), (0, {}, 8), (-5, {}, 8), (2**31 - 1, {}, 1024), (2, {"window_chunks": 5}, 5)],
)
def test_a_window_is_as_large_as_a_server_may_advise(advised: int, options: dict[str, Any], chunks: int) -> None:
    assert window_chunks(limits(window_chunks=advised), ClientOptions(**options)) == chunks


@pytest.mark.parametrize("most_bytes", [0, 20 * KIB, 16 * KIB**2])
def test_parts_are_packed_as_far_as_the_server_takes_the_message(most_bytes: int) -> None:
    outbox = Outbox()
    outbox.most_bytes = most_bytes
    for id in range(1, 31):
        header = Header(id, FLOAT32.wire, (KIB,), Reduction.MEAN)
        operand = bytes(4 * KIB)
        outbox.open_request(id, header, [Chunk(id, 0, operand, operand, operand)])
    sizes_bytes = []
    while (message := outbox.next_message()) is not None:
        sizes_bytes.append(len(message))
    assert sum(sizes_bytes) > 30 * 12 * KIB
    assert max(sizes_bytes) <= max(most_bytes, 13 * KIB)
    assert len(sizes_bytes) == {0: 30, 20 * KIB: 30, 16 * KIB**2: 5}[most_bytes]
