"""A process whose calls are interrupted at random moments; it prints how they ended.

  python -m support.client.interrupted_caller ADDRESS --transport packets --kind timer --seed 7 --rounds 20

It prints one line of JSON for each round. A call that hangs ends the process with the stacks of all threads on stderr.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import random
import signal
import sys
import threading
import time
from typing import Any, NoReturn

import numpy as np

from mse_grad_client import ClientOptions, MseGradClient

__all__ = ["KINDS", "TRANSPORTS"]

TRANSPORTS = ("stream", "direct", "packets", "shared", "copied", "unary", "many")
KINDS = ("sigint", "sigterm", "timer")

# A call that takes longer than this hangs.
_HANG_S = 15.0
_LATEST_S = 0.012
# Python drops what a handler raises in a finalizer or in the callback of a weak reference. Then the signal comes again.
_AGAIN_S = 5.0
_SENTINEL = 12345.0


class _Alarm(TimeoutError):
    """The error that the timer's handler raises: an OSError, like those of code that waits for a socket."""


def _raise_alarm(number: int, frame: Any) -> NoReturn:
    raise _Alarm


def _exit(number: int, frame: Any) -> NoReturn:
    raise SystemExit(3)


class _Signals:
    """Signals to this process: one after a time, and more until the round ends them."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._ended = threading.Event()

    def begin(self, delay_s: float) -> None:
        self._ended = threading.Event()
        if self._number == signal.SIGALRM:
            signal.setitimer(signal.ITIMER_REAL, max(delay_s, 1e-6), _AGAIN_S)
        else:
            threading.Thread(target=self._send, args=(delay_s, self._ended), daemon=True).start()

    def end(self) -> None:
        self._ended.set()
        if self._number == signal.SIGALRM:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _send(self, delay_s: float, ended: threading.Event) -> None:
        while not ended.wait(delay_s):
            os.kill(os.getpid(), self._number)
            delay_s = _AGAIN_S


class _Round:
    """A client that computes until it is interrupted, then once more, beside a thread that no signal interrupts."""

    def __init__(self, address: str, transport: str, seed: int) -> None:
        self._random = random.Random(seed)
        is_shared = transport in ("packets", "shared", "copied", "many")
        options = ClientOptions(shared_memory=is_shared, direct=transport == "direct")
        self._client = MseGradClient(address, options=options)
        self._transport = transport
        count = {"packets": 1000, "many": 200, "stream": 3000, "direct": 3000, "unary": 3000}.get(transport, 60_000)
        empty = self._client.empty if transport == "shared" else np.empty
        self._arrays = [empty(count, np.float32) for _ in range(4)]
        generator = np.random.default_rng(seed)
        for array in self._arrays[:3]:
            array[:] = generator.random(count, np.float32)
        self._stopping = threading.Event()
        self._neighbour_error: BaseException | None = None
        self._neighbour_calls = 0

    def run(self, signals: _Signals, kinds: tuple[type[BaseException], ...]) -> dict[str, Any]:
        predict, label, dout, out = self._arrays
        expected = (predict - label) * np.float32(2) * dout
        self._compute(out)
        assert np.array_equal(out, expected), "wrong before any interrupt"
        while self._transport == "direct" and self._client.server_info().transport != "direct":
            pass  # each question waits for the connection
        neighbour = threading.Thread(target=self._neighbour, daemon=True)
        if self._random.random() < 0.5:
            neighbour.start()
        caught: BaseException | None = None
        calls = 0
        try:
            signals.begin(self._random.uniform(0, _LATEST_S))
            while True:
                self._compute(out)
                calls += 1
        except kinds as error:
            caught = error
        signals.end()
        out[:] = _SENTINEL
        again = np.empty_like(out)
        began_s = time.monotonic()
        self._compute(again, timeout_s=_HANG_S / 2)
        took_s = time.monotonic() - began_s
        again_right = bool(np.array_equal(again, expected))
        untouched = bool((out == _SENTINEL).all())
        self._stopping.set()
        if neighbour.ident is not None:
            neighbour.join()
        self._client.close()
        untouched = untouched and bool((out == _SENTINEL).all())
        return {
            "caught": type(caught).__name__,
            "calls": calls,
            "again_right": again_right,
            "untouched": untouched,
            "neighbour": repr(self._neighbour_error) if self._neighbour_error else "",
            "neighbour_calls": self._neighbour_calls,
            "took_s": round(took_s, 3),
        }

    def _neighbour(self) -> None:
        predict, label, dout, _ = (array[:1000].copy() for array in self._arrays)
        expected = (predict - label) * np.float32(2) * dout
        try:
            while not self._stopping.is_set():
                y = self._client.compute(predict, label, dout, "none")
                assert np.array_equal(y, expected), "the gradient of the other thread is wrong"
                self._neighbour_calls += 1
        except BaseException as error:  # noqa: BLE001 - the process reports it
            self._neighbour_error = error

    def _compute(self, out: Any, *, timeout_s: float | None = None) -> None:
        predict, label, dout, _ = self._arrays
        client = self._client
        if self._transport == "many":
            items = [(predict, label, dout)] * 40
            for y in client.compute_many(items, "none", timeout_s=timeout_s):
                out[:] = y
        elif self._transport == "unary":
            client.compute_unary(predict, label, dout, "none", out=out, timeout_s=timeout_s)
        else:
            client.compute(predict, label, dout, "none", out=out, timeout_s=timeout_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--transport", choices=TRANSPORTS, required=True)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.kind == "timer":
        signal.signal(signal.SIGALRM, _raise_alarm)
    signal.signal(signal.SIGTERM, _exit)
    number = {"sigint": signal.SIGINT, "sigterm": signal.SIGTERM, "timer": signal.SIGALRM}[arguments.kind]

    signals = _Signals(number)
    for seed in range(arguments.seed, arguments.seed + arguments.rounds):
        faulthandler.dump_traceback_later(_HANG_S, exit=True)
        found = _Round(arguments.address, arguments.transport, seed).run(
            signals, (KeyboardInterrupt, SystemExit, _Alarm)
        )
        print(json.dumps({"seed": seed, **found}), flush=True)
        faulthandler.cancel_dump_traceback_later()
    sys.exit(0)


if __name__ == "__main__":
    main()
