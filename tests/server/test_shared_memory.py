from __future__ import annotations

import sys

import numpy as np
import pytest

from mse_grad.frame import Chunk, SharedRange
from support.handover import RawHandover, SharedBytes
from support.in_process import gradient, header, operands, serving

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is handed over on Linux alone")

FOUR = [1.0, -2.0, 3.5, 0.0]


def put_four(memory: SharedBytes) -> SharedRange:
    """Puts operands of four float32 elements at 0, 64 and 128; the gradient goes to 192."""
    for offset, values in zip((0, 64, 128), operands(FOUR), strict=True):
        memory.put(offset, values)
    return SharedRange(4, 1, 0, 1, 64, 1, 128, 1, 192)


async def test_a_gradient_is_computed_in_the_memory_that_was_handed_over() -> None:
    async with serving() as server:
        stream = server.raw_stream()
        opened = (await stream.opened()).opened
        assert opened is not None
        with RawHandover(opened) as handover, SharedBytes(4096) as memory:
            assert not (await handover.hand_over([1], [memory.descriptor])).status.code
            shared = put_four(memory)
            await stream.send([header(1, (4,))], [Chunk(1, 0, b"", b"", shared=shared)])
            (result,) = (await stream.receive()).results
            assert (result.id, result.offset, bytes(result.y)) == (1, 0, b"")
            assert memory.get(192, 4, np.dtype(np.float32)).tobytes() == gradient(FOUR).tobytes()
