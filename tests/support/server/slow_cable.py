"""A cable between two network namespaces with a delay, losses and a rate, for systems without netem.

`python -m support.server.slow_cable NEAR FAR` makes a TUN device in both namespaces, prints "ready" and carries the
packets until its standard input ends. Needs root.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import sys
import time
from collections.abc import Sequence

__all__ = ["DEVICE"]

DEVICE = "slow0"
"""Name of the device in both namespaces."""

# Source: linux/if_tun.h, linux/sched.h.
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000
_NAMESPACES = "/var/run/netns"
_MOST_PACKET_BYTES = 65536


class Direction:
    """Packets on their way from one device to the other, in order.

    Args:
        source: Descriptor of the device where they come from.
        target: That of the other one.
        delay_s: Time on the way.
        loss: Share of the packets that are lost.
        bytes_per_s: Bytes that leave in a second; 0 for no bound.
        seed: Seed of the losses.
    """

    def __init__(self, source: int, target: int, *, delay_s: float, loss: float, bytes_per_s: float, seed: int) -> None:
        self.source = source
        self._target = target
        self._delay_s = delay_s
        self._loss = loss
        self._bytes_per_s = bytes_per_s
        self._random = random.Random(seed)
        self._under_way: list[tuple[float, int, bytes]] = []
        self._count = 0
        self._left_s = 0.0

    @property
    def next_s(self) -> float | None:
        """Time of the next arrival on the clock of time.monotonic; None if nothing is under way."""
        return self._under_way[0][0] if self._under_way else None

    def take(self, now_s: float) -> None:
        """Takes the packets that wait at the source."""
        while True:
            try:
                packet = os.read(self.source, _MOST_PACKET_BYTES)
            except BlockingIOError:
                return
            if self._random.random() < self._loss:
                continue
            if self._bytes_per_s:
                self._left_s = max(now_s, self._left_s) + len(packet) / self._bytes_per_s
            self._count += 1
            due_s = max(now_s, self._left_s) + self._delay_s
            heapq.heappush(self._under_way, (due_s, self._count, packet))

    def deliver(self, now_s: float) -> None:
        """Delivers the packets that have arrived by `now_s`."""
        while self._under_way and self._under_way[0][0] <= now_s:
            try:
                os.write(self._target, heapq.heappop(self._under_way)[2])
            except OSError:  # the device is down: the packet is lost
                return


def device_in(namespace: str) -> int:
    """Moves this thread into a namespace, makes the device there and returns its descriptor, which does not block."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"{_NAMESPACES}/{namespace}", "rb") as there:
        if libc.setns(there.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns to {namespace}")
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
    return device


def carry(directions: Sequence[Direction]) -> None:
    """Carries packets both ways until standard input ends."""
    sources = [direction.source for direction in directions]
    while True:
        arrivals = [direction.next_s for direction in directions if direction.next_s is not None]
        wait_s = max(0.0, min(arrivals) - time.monotonic()) if arrivals else None
        readable, _, _ = select.select([*sources, sys.stdin], [], [], wait_s)
        if sys.stdin in readable:
            return
        now_s = time.monotonic()
        for direction in directions:
            direction.take(now_s)
            direction.deliver(now_s)


def main() -> None:
    """Makes the cable and carries packets."""
    parser = argparse.ArgumentParser(prog="python -m support.server.slow_cable", description=__doc__)
    parser.add_argument("near")
    parser.add_argument("far")
    parser.add_argument("--delay-s", type=float, default=0.0, help="of each way")
    parser.add_argument("--loss", type=float, default=0.0, help="share of the packets of each way")
    parser.add_argument("--bytes-per-s", type=float, default=0.0, help="of each way")
    given = parser.parse_args()
    near, far = device_in(given.near), device_in(given.far)
    quality = {"delay_s": given.delay_s, "loss": given.loss, "bytes_per_s": given.bytes_per_s}
    print("ready", flush=True)
    carry([Direction(near, far, seed=1, **quality), Direction(far, near, seed=2, **quality)])


if __name__ == "__main__":
    main()
