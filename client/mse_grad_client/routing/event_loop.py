"""Event loop of the tasks that wait for a client."""

from __future__ import annotations

import asyncio
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from mse_grad_client.attempt import Readable
from mse_grad_client.routing.transport import Transport

__all__ = ["Loop", "Sleeper"]


class Sleeper(Protocol):
    """A task that may be suspended."""

    def look(self) -> None:
        """Lets the task look again whether it may go on."""


class _Descriptor:
    """A descriptor of this process, closed when it is forgotten: a loop may end without a word.

    Args:
        number: An open descriptor.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        if sys.platform != "linux":
            raise OSError("only packets have a descriptor, and only Linux has packets")
        # It closes the descriptor when it is collected, and no code of Python runs there: an interrupt would be lost.
        self._owner = select.epoll.fromfd(number)
        self._poll = select.poll()
        self._poll.register(number, select.POLLIN)

    def is_drained(self) -> bool:
        """Returns whether a read would block."""
        return sys.platform != "linux" or not self._poll.poll(0)


class Loop:
    """The tasks of one event loop that wait for one client: one wake-up of the loop for all answers of a message.

    Args:
        loop: The running loop.
        transport: The transport of the client.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: Transport) -> None:
        self._loop = loop
        self._transport = transport
        self._woken: deque[Sleeper] = deque()
        self._is_waking = False
        self._sends: dict[Readable, None] = {}
        self._readers: dict[Readable, _Descriptor] = {}
        self._reading_thread = 0

    def future(self) -> asyncio.Future[None]:
        """Returns a future of the loop."""
        if self._woken:  # still, if an interrupt ended the turn that was to look
            self._loop.call_soon(self._look)
        return self._loop.create_future()

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Calls `callback` in the loop after `delay_s`."""
        return self._loop.call_later(delay_s, callback)

    def wake(self, sleeper: Sleeper) -> None:
        """Has the loop call `sleeper.look`; called by any thread."""
        if self._reading_thread == threading.get_ident():
            sleeper.look()
            return
        self._woken.append(sleeper)
        if self._is_waking:
            return
        self._is_waking = True
        try:
            self._loop.call_soon_threadsafe(self._look)
        except RuntimeError:  # the loop is closed, and its tasks have ended
            self._woken.clear()
        except BaseException:  # an interrupt: the next call wakes all
            self._is_waking = False
            raise

    def reads(self, stream: Readable) -> bool:
        """Reads `stream` in the loop from now on, until it ends; returns False if that is not possible."""
        number = stream.descriptor
        if number is None:
            return False
        if stream in self._readers:
            return True
        try:
            # The loop must know the descriptor until it forgets it, and a thread may close the stream's at any time.
            descriptor = _Descriptor(os.dup(number))
            self._loop.add_reader(descriptor.number, self._read, stream)
        except (OSError, NotImplementedError):  # closed just now, or a loop that reads no descriptors
            return False
        self._readers[stream] = descriptor
        stream.is_read_by_loop = True
        return True

    def send_soon(self, stream: Readable) -> None:
        """Wakes `stream` once, in the next turn of the loop."""
        # Each time: an interrupt may have ended the turn that was to send the streams that are left here.
        self._loop.call_soon(self._send)
        self._sends[stream] = None

    def _look(self) -> None:
        self._is_waking = False  # before the first look: a waiter that is woken from now on is seen here or next time
        woken = self._woken
        try:
            while woken:
                woken[0].look()
                woken.popleft()
        except BaseException:  # an interrupt: the others look in the next turn
            self._loop.call_soon(self._look)
            raise

    def _read(self, stream: Readable) -> None:
        descriptor = self._readers[stream]
        self._reading_thread = threading.get_ident()
        try:
            with self._transport.visit():
                stream.read(descriptor.is_drained)
        finally:
            self._reading_thread = 0
            if stream.has_ended:
                del self._readers[stream]
                self._loop.remove_reader(descriptor.number)
                self._loop.remove_writer(descriptor.number)
            elif stream.is_sending:
                self._loop.add_writer(descriptor.number, self._write, stream)

    def _send(self) -> None:
        if not self._sends:
            return
        sends, self._sends = self._sends, {}
        with self._transport.visit():
            for stream in sends:
                stream.wake()
                if stream.is_sending:
                    self._send_rest(stream)

    def _send_rest(self, stream: Readable) -> None:
        """Sends what the kernel had no room for: in the loop if it reads the answers, which may make room."""
        descriptor = self._readers.get(stream)
        if descriptor is None:
            stream.read_in_thread()
        else:
            self._loop.add_writer(descriptor.number, self._write, stream)

    def _write(self, stream: Readable) -> None:
        with self._transport.visit():
            stream.wake()
        if not stream.is_sending:
            self._loop.remove_writer(self._readers[stream].number)
