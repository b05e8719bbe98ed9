"""An RPC that the server cancels: it is lost, not cancelled by the caller."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from mse_grad.reasons import Reason
from mse_grad_client import ClientOptions, MseGradClient, RetryOptions, Unavailable
from support.client.scripted_server import ScriptedServer
from support.values import expected, operands


class CancellingServer(ScriptedServer):
    """Cancels its first stream, as a server does with requests that come too late for its drain."""

    def _stream(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        if self.streams == 0:
            self.streams = 1
            context.cancel()
            return iter(())
        return super()._stream(messages, context)


def test_the_request_is_sent_again() -> None:
    given = operands((100,))
    with CancellingServer() as server, MseGradClient(server.address) as client:
        np.testing.assert_array_equal(client.compute(*given, timeout_s=60.0), expected(*given))
        assert server.streams == 2


def test_without_retries_the_connection_is_lost() -> None:
    once = ClientOptions(retry=RetryOptions(max_attempts=1))
    with CancellingServer() as server, MseGradClient(server.address, options=once) as client:
        with pytest.raises(Unavailable) as caught:
            client.compute(*operands((100,)), timeout_s=60.0)
        assert caught.value.reason is Reason.CONNECTION_LOST
