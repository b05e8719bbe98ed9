"""GetServerInfo RPC under way, and its answer as a health check."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import grpc

from mse_grad.reasons import Reason
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_client.errors import MseGradError, Unavailable, Unimplemented, from_rpc_error

__all__ = ["Answer", "InfoCall", "answer_of", "state_name"]

_STATE_NAMES = {number: name.removeprefix("WORKER_STATE_").lower() for name, number in pb.WorkerState.items()}


class InfoCall(Protocol):
    """A GetServerInfo RPC under way."""

    def cancel(self) -> bool:
        """Ends the RPC from this side."""

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Calls `fn` with this object when the RPC has ended, in a thread of gRPC's, or at once if it has."""

    def details(self) -> str | None:
        """Returns the text of an error."""

    def trailing_metadata(self) -> Any:
        """Returns the metadata after an answer."""

    def code(self) -> grpc.StatusCode:
        """Blocks until the RPC ends; returns its status code."""

    def result(self) -> pb.GetServerInfoResponse:
        """Returns the answer of an RPC that ended with OK."""


class Answer:
    """The answer of a server: its description, or the error of the RPC."""

    __slots__ = ("error", "info")

    def __init__(self, info: pb.GetServerInfoResponse | None, error: MseGradError | None) -> None:
        self.info = info
        self.error = error

    def failure(self, address: str, *, named: str = "") -> MseGradError | None:
        """Returns why no request may go to `address`; None if it is ready.

        Args:
            address: The address that was asked.
            named: The address by which its server names this worker; "" if any ready worker there will do.
        """
        if self.info is None:
            return None if isinstance(self.error, Unimplemented) and not named else self.error
        for endpoint in self.info.endpoints:
            if endpoint.state == pb.WORKER_STATE_READY and named in ("", endpoint.address):
                return None
        states = ", ".join(dict.fromkeys(state_name(endpoint.state) for endpoint in self.info.endpoints))
        return Unavailable(f"{address} is not ready ({states})", reason=Reason.NOT_READY)


def answer_of(call: InfoCall, address: str) -> Answer:
    """Returns the answer of an RPC to `address`, once it has ended."""
    # Check the code instead of catching the exception: gRPC raises the call object itself, and its traceback would
    # create a reference cycle.
    if call.code() is grpc.StatusCode.OK:
        return Answer(call.result(), None)
    return Answer(None, from_rpc_error(call, address=address))


def state_name(state: int) -> str:
    """Returns the name of a worker's state; its number if only a newer version has a name for it."""
    return _STATE_NAMES.get(state, str(state))
