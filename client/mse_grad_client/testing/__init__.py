"""A server in memory, for the tests of your own code; needs no socket, no server package and no device."""

from mse_grad_client.testing.records import RecordedRequest
from mse_grad_client.testing.server import FakeServer

__all__ = ["FakeServer", "RecordedRequest"]
