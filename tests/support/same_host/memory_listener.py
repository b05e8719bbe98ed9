"""Server side of a handover: accepts segments of a client, and answers as the test decides."""

from __future__ import annotations

import array
import itertools
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from mse_grad.reasons import Reason
from mse_grad.v1 import mse_grad_pb2 as pb
from support.client.scripted_server import status_of

__all__ = ["MemoryListener", "refusing", "taking"]

_numbers = itertools.count(1)


def taking(_: pb.SharedMemoryHandover) -> bytes:
    """Accepts every packet."""
    result = pb.SharedMemoryHandoverResult()
    result.status.SetInParent()
    return result.SerializeToString()


def refusing(is_refused: Callable[[pb.SharedMemoryHandover], bool]) -> Callable[[pb.SharedMemoryHandover], bytes]:
    """Returns an answer that refuses the packets for which `is_refused` is true, and accepts the others."""

    def answer(packet: pb.SharedMemoryHandover) -> bytes:
        if not is_refused(packet):
            return taking(packet)
        status = status_of(Reason.SHARED_MEMORY_FULL, "no")
        return pb.SharedMemoryHandoverResult(status=status).SerializeToString()

    return answer


class MemoryListener:
    """Listens on an abstract address for one connection of each kind; a context manager.

    Attributes:
        offer: The offer that a stream sends to its client.
        packets: The packets received, with the number of their descriptors, oldest first.
    """

    def __init__(
        self,
        answer: Callable[[pb.SharedMemoryHandover], bytes] = taking,
        *,
        requests: Callable[[socket.socket], None] | None = None,
    ) -> None:
        """Creates a listener.

        Args:
            answer: Answers packets that hand memory over; an empty answer closes the connection.
            requests: Serves the connection for requests; None offers none.
        """
        name = f"mse-grad-test-{os.getpid()}-{next(_numbers)}"
        self.offer = pb.SharedMemoryOffer(socket_name=name, secret=b"secret", max_mapped_bytes=2**40)
        if requests is not None:
            self.offer.max_packet_bytes = 192 * 1024
        self.packets: list[tuple[pb.SharedMemoryHandover, int]] = []
        self._answer = answer
        self._requests = requests
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(f"\0{self.offer.socket_name}")
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)

    @property
    def opened(self) -> pb.StreamOpened:
        """The first message of a stream that makes this offer."""
        return pb.StreamOpened(instance_id="scripted", shared_memory=self.offer)

    def __enter__(self) -> MemoryListener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(20)
        assert not self._thread.is_alive(), "the client left its connection open"
        self._listener.close()

    def _serve(self) -> None:
        with ThreadPoolExecutor() as threads:
            while True:
                try:
                    connection, _ = self._listener.accept()
                except OSError:  # the listener is closed
                    return
                threads.submit(self._serve_one, connection)

    def _serve_one(self, connection: socket.socket) -> None:
        with connection:
            while True:
                packet, rights, _, _ = connection.recvmsg(65536, 4096)
                if not packet:
                    return
                descriptors = array.array("i")
                for _, _, data in rights:
                    descriptors.frombytes(data)
                for descriptor in descriptors:
                    os.close(descriptor)
                handover = pb.SharedMemoryHandover.FromString(packet)
                if handover.requests and self._requests is not None:
                    connection.send(taking(handover))
                    self._requests(connection)
                    return
                self.packets.append((handover, len(descriptors)))
                answer = self._answer(handover)
                if not answer:
                    return
                connection.send(answer)
