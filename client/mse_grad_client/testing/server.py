"""Fake server: right gradients, recorded requests, and failures when a test asks for them."""

from __future__ import annotations

from typing import Any

from mse_grad.reasons import Reason
from mse_grad_client.client import MseGradClient
from mse_grad_client.options import ClientOptions
from mse_grad_client.testing.channel import FakeChannel
from mse_grad_client.testing.records import RecordedRequest, Refusal
from mse_grad_client.testing.service import ADDRESS, FakeService

__all__ = ["FakeServer"]


class FakeServer:
    """A server in memory, for tests of code that uses the SDK. Thread-safe.

    The client above it is the real one: checks, chunks, codec, retries, deadlines and errors are those of production.
    Gradients are computed with NumPy and have the bits of a real server. There are no sockets, and so no TLS, no shared
    memory and no worker beside this one.

    Example:
        def test_training_survives_a_busy_server():
            with FakeServer() as server, server.client() as client:
                server.refuse(Reason.SERVER_BUSY, times=2)
                gradient = client.compute(predict, label, 1.0)
                assert [request.state for request in server.requests] == ["failed", "failed", "answered"]
    """

    def __init__(self) -> None:
        self._service = FakeService()

    @property
    def requests(self) -> list[RecordedRequest]:
        """Every request that has arrived, in order; each attempt of a call is one."""
        return list(self._service.requests)

    @property
    def address(self) -> str:
        """An address for clients with `options()`; it leads nowhere without them."""
        return ADDRESS

    def options(self, **options: Any) -> ClientOptions:
        """Returns options that lead a client to this server, for code that makes its own client.

        Args:
            options: Further options, as for ClientOptions.
        """
        return ClientOptions(
            **{
                "open_channel": lambda _: FakeChannel(self._service),
                "shared_memory": False,
                "all_workers": False,
                **options,
            }
        )

    def client(self, **options: Any) -> MseGradClient:
        """Returns a client of this server; takes options as for ClientOptions."""
        return MseGradClient(ADDRESS, options=self.options(**options))

    def refuse(self, reason: Reason, *, times: int = 1, retry_delay_s: float | None = None, message: str = "") -> None:
        """Refuses the next requests; those of a second call come after those of the first.

        Args:
            reason: Why; it decides the client's error, and whether the client tries again.
            times: How many requests.
            retry_delay_s: Seconds that the client is asked to wait before it tries again; None for none.
            message: Text of the error.
        """
        refusal = Refusal(reason, message or "the test refuses this request", retry_delay_s)
        self._service.refusals.extend([refusal] * times)

    def fail(self, *, times: int = 1) -> None:
        """Fails the next requests with INTERNAL, which the client does not send again."""
        self.refuse(Reason.INTERNAL, times=times, message="the test fails this request")

    def delay(self, seconds: float) -> None:
        """Answers each later request this many seconds after its last chunk has arrived; 0 for at once."""
        self._service.delay_s = seconds

    def hold(self) -> None:
        """Holds all answers back, until `release`."""
        self._service.released.clear()

    def release(self) -> None:
        """Sends the answers that were held back, and later ones at once."""
        self._service.released.set()

    def drain(self) -> None:
        """Accepts no further request: streams end after their open requests, and clients try again; see `resume`."""
        self._service.drain()

    def resume(self) -> None:
        """Accepts requests again after `drain`."""
        self._service.resume()

    def disconnect(self) -> None:
        """Ends every stream, as the end of a server's process would; a new one opens with the next attempt."""
        self._service.disconnect()

    def wait_for_requests(self, count: int, timeout_s: float = 30.0) -> list[RecordedRequest]:
        """Returns all requests once at least `count` have arrived; raises TimeoutError if they do not."""
        if not self._service.wait_for(count, timeout_s):
            raise TimeoutError(f"{len(self.requests)} of {count} requests arrived within {timeout_s} s")
        return self.requests

    def close(self) -> None:
        """Ends every stream."""
        self.release()
        self.disconnect()

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
