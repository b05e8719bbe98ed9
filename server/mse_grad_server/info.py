"""What the server says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata

from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_server.backends.base import Backend
from mse_grad_server.config import Settings
from mse_grad_server.roster import Endpoint
from mse_grad_server.state import State

__all__ = ["info_of", "limits_of", "version"]

_STATES = {
    State.STARTING: pb.WORKER_STATE_STARTING,
    State.READY: pb.WORKER_STATE_READY,
    State.RECOVERING: pb.WORKER_STATE_RECOVERING,
    State.DRAINING: pb.WORKER_STATE_DRAINING,
    State.GONE: pb.WORKER_STATE_GONE,
}


def version() -> str:
    """Returns the version of the installed package."""
    return metadata.version("mse-grad")


def limits_of(settings: Settings) -> pb.Limits:
    """Returns what clients are told to keep to."""
    return pb.Limits(
        max_unary_bytes=settings.max_unary_bytes,
        max_stream_message_bytes=settings.max_stream_message_bytes,
        window_chunks=settings.window_chunks,
        chunk_bytes=settings.chunk_bytes,
        max_open_requests=settings.max_open_requests,
        max_in_flight_bytes=settings.max_in_flight_bytes,
    )


def info_of(
    settings: Settings, backend: Backend, state: State, *, endpoints: Sequence[Endpoint], instance_id: str
) -> pb.GetServerInfoResponse:
    """Returns the answer of GetServerInfo.

    Args:
        settings: What the server was told.
        backend: What computes; open.
        state: Where in its life the server is.
        endpoints: Every worker of the host.
        instance_id: Names this run.
    """
    return pb.GetServerInfoResponse(
        version=version(),
        backend=backend.name,
        device=backend.device,
        kernel_hash=backend.kernel_hash,
        endpoints=[pb.Endpoint(address=at.address, device=at.device, state=_STATES[at.state]) for at in endpoints],
        dtypes=[pb.DataType.Name(dtype.wire) for dtype in backend.dtypes],
        limits=limits_of(settings),
        numerics=pb.Numerics(
            intermediate="float32",
            subnormals=True,
            rounding="nearest-even",
            verified=state is not State.STARTING,
        ),
        instance_id=instance_id,
    )
