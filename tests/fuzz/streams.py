"""Sessions on streams: over gRPC, over frames and over packets, which carry the same messages."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np

from fuzz.mutations import mutated
from fuzz.peers import Packets, Peer, connected, handover_socket, opened_rpc
from fuzz.samples import SEGMENT_BYTES, StreamSamples
from fuzz.trees import tree_of
from fuzz.verdicts import StreamVerdict, Wrong, check_error, check_status, parsed
from mse_grad.frames import head
from mse_grad.reasons import Reason
from mse_grad.v1 import mse_grad_pb2 as pb
from support.same_host.handover import SharedBytes
from support.values import expected, operands

__all__ = ["TRANSPORTS", "Judged", "Tell", "stream_session"]

Tell = Callable[[bytes], None]
"""Notes one case."""

TRANSPORTS = ("stream", "frames", "packets", "shared")
_KIND = pb.StreamGradientsRequest.DESCRIPTOR
# Reasons with which valid messages may fail: those of callers that cancel, and are in a hurry; and of other sessions.
_OF_VALID = frozenset((Reason.CANCELLED, Reason.DEADLINE_EXCEEDED, Reason.SERVER_BUSY))
_SIZES_OF_FRAMES = (0, 1, 255, 256, 257, 2**16, 2**24, 2**24 + 1, 2**31, 2**32 - 1)
_GREATEST_ID = 2**64 - 1000
_PROBE = operands((5,))
_RIGHT = expected(*_PROBE).tobytes()


class Judged:
    """A stream whose every answer is judged.

    Attributes:
        reasons: Reasons of the errors so far; that of the end of the stream begins with "end: ".
        is_over: Whether the stream has ended.
    """

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.verdict = StreamVerdict()
        self.reasons: set[str] = set()
        self.is_over = False

    @property
    def next_id(self) -> int:
        """Least id of a further request."""
        return self.verdict.last_id + 1

    def send(self, message: bytes) -> None:
        """Sends a message."""
        self.verdict.sent(message)
        self._peer.send(message)

    def probe(self, *, memory: SharedBytes | None = None, segment: int = 0) -> None:
        """Sends a right request and waits for its right answer, or for a typed end of the stream."""
        id = self.next_id
        if id > _GREATEST_ID:
            self.is_over = True
            return
        chunk = pb.GradientChunk(id=id)
        if memory is None:
            chunk.predict, chunk.label, chunk.dout = (operand.tobytes() for operand in _PROBE)
        else:
            for place, operand in enumerate(_PROBE):
                memory.put(64 * place, operand)
            shared = pb.SharedRange(elements=5, label_offset=64, dout_offset=128, y_offset=192)
            shared.predict_segment = shared.label_segment = shared.dout_segment = shared.y_segment = segment
            chunk.shared.CopyFrom(shared)
        header = pb.GradientHeader(id=id, dtype=pb.DATA_TYPE_FLOAT32, shape=[5], reduction=pb.REDUCTION_MEAN)
        self.send(pb.StreamGradientsRequest(headers=[header], chunks=[chunk]).SerializeToString())
        result = self._result_of(id)
        if result is None:
            return
        y = bytes(result.y) if memory is None else memory.get(192, 5, np.dtype(np.float32)).tobytes()
        if y != _RIGHT:
            raise Wrong(f"the probe's gradient is {y.hex()}; right is {_RIGHT.hex()}")

    def _result_of(self, id: int) -> pb.GradientResult | None:
        farewell = False
        while True:
            try:
                answer = self._peer.receive()
            except grpc.RpcError as error:
                self._over(f"end: {check_error(error).value}")
                return None
            if answer is None:
                if not farewell:
                    raise Wrong("the stream ended without a reason")
                return None
            response = self.verdict.check(answer)
            for failed in response.errors:
                reason = check_status(failed.status)
                self.reasons.add(reason.value)
                # Messages before may have named this id.
                if failed.id == id and reason is Reason.SERVER_BUSY:
                    return None
                if failed.id == id and reason is not Reason.REQUEST_ID_UNKNOWN:
                    raise Wrong(f"the probe failed: {failed.status}")
            if response.HasField("go_away"):
                farewell = True
                self._over(f"end: {check_status(response.go_away.status).value}")
            for result in response.results:
                if result.id == id:
                    return result

    def _over(self, reason: str) -> None:
        self.is_over = True
        self.reasons.add(reason)


def stream_session(rng: random.Random, channel: Any, transport: str, tell: Tell) -> None:
    """Sends some twenty messages on one stream and judges every answer.

    Args:
        rng: Source of every choice.
        channel: Connection to the server.
        transport: One of `TRANSPORTS`.
        tell: Notes each case.

    Raises:
        Wrong: The server broke a promise.
    """
    if transport == "stream":
        compression = grpc.Compression.Gzip if rng.random() < 0.2 else None
        with opened_rpc(channel, compression=compression) as (rpc, _):
            _exchange(rng, Judged(rpc), tell)
    elif transport == "frames":
        with opened_rpc(channel) as (_, opened), connected(opened) as frames:
            right = pb.DirectGreeting(instance_id=opened.instance_id, secret=opened.direct.secret)
            frames.send(right.SerializeToString())
            _require_opened(frames)
            judged = Judged(frames)
            _exchange(rng, judged, tell)
            if not judged.is_over and rng.random() < 0.3:
                size_bytes = rng.choice(_SIZES_OF_FRAMES)
                part = head(size_bytes)[: rng.choice((1, 3, 4, 4))] + rng.randbytes(rng.choice((0, 1, 100)))
                tell(part)
                frames.send_raw(part)
    else:
        with (
            opened_rpc(channel) as (_, opened),
            handover_socket(opened) as packets,
            _memory_of(opened, is_shared=transport == "shared") as memories,
        ):
            asked = pb.SharedMemoryHandover(instance_id=opened.instance_id, secret=opened.shared_memory.secret)
            asked.requests = True
            packets.send(asked.SerializeToString())
            _require_result(packets)
            _require_opened(packets)
            _exchange(rng, Judged(packets), tell, is_packets=True, memories=memories)


def _exchange(
    rng: random.Random, judged: Judged, tell: Tell, *, is_packets: bool = False, memories: tuple[SharedBytes, ...] = ()
) -> None:
    samples = StreamSamples(rng, shares_memory=bool(memories), fits_packets=is_packets)
    is_valid = rng.random() < 0.1

    def another() -> bytes:
        samples.next_id = max(samples.next_id, judged.next_id)
        return samples.message().SerializeToString()

    for _ in range(rng.choice((1, 2, 3, 4))):
        for _ in range(rng.randint(1, 8)):
            if judged.next_id > _GREATEST_ID:
                return
            message = another()
            if not is_valid and rng.random() < 0.85:
                message = mutated(rng, tree_of(message, _KIND), lambda: tree_of(another(), _KIND))
            if not message:  # an empty packet is the end of a connection
                message = b"\x18\x00"
            tell(message)
            judged.send(message)
        judged.probe()
        if judged.is_over:
            break
        if memories:
            segment = rng.randrange(2)
            judged.probe(memory=memories[segment], segment=segment + 1)
    if is_valid:
        ends = {reason for reason in judged.reasons if reason.startswith("end: ")}
        if ends or judged.reasons - {reason.value for reason in _OF_VALID}:
            raise Wrong(f"valid messages failed: {sorted(judged.reasons)}")


@contextmanager
def _memory_of(opened: pb.StreamOpened, *, is_shared: bool) -> Iterator[tuple[SharedBytes, ...]]:
    """Hands two segments over, which stay as long as the connection."""
    if not is_shared:
        yield ()
        return
    with SharedBytes(SEGMENT_BYTES) as one, SharedBytes(SEGMENT_BYTES) as two, handover_socket(opened) as handover:
        packet = pb.SharedMemoryHandover(
            instance_id=opened.instance_id, secret=opened.shared_memory.secret, segments=[1, 2]
        )
        handover.send(packet.SerializeToString(), [one.descriptor, two.descriptor])
        _require_result(handover)
        yield one, two


def _require_opened(peer: Peer) -> None:
    first = peer.receive()
    response = None if first is None else parsed(pb.StreamGradientsResponse, first)
    if response is None or not response.HasField("opened"):
        raise Wrong(f"the first message does not open the stream: {response}")


def _require_result(packets: Packets) -> None:
    answer = packets.receive()
    result = None if answer is None else parsed(pb.SharedMemoryHandoverResult, answer)
    if result is None or result.status.code:
        raise Wrong(f"the handover was refused: {result}")
