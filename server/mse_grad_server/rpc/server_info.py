"""Answer of GetServerInfo: version, backend, limits, numerics, endpoints, load."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import Gauge

from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad.version import VERSION
from mse_grad_server.backends.base import Backend
from mse_grad_server.backends.edges import Edges, OverflowMode
from mse_grad_server.engine.engine import Engine
from mse_grad_server.metrics.registry import Metrics
from mse_grad_server.process.state import State
from mse_grad_server.settings.model import Settings
from mse_grad_server.workers.protocol import Endpoint

__all__ = ["info_of", "limits_of", "load_of"]

_STATES = {
    State.STARTING: pb.WORKER_STATE_STARTING,
    State.READY: pb.WORKER_STATE_READY,
    State.RECOVERING: pb.WORKER_STATE_RECOVERING,
    State.DRAINING: pb.WORKER_STATE_DRAINING,
    State.GONE: pb.WORKER_STATE_GONE,
}

_OVERFLOW_MODES = {
    OverflowMode.UNKNOWN: pb.OVERFLOW_MODE_UNSPECIFIED,
    OverflowMode.INF_NAN: pb.OVERFLOW_MODE_INF_NAN,
    OverflowMode.SATURATION: pb.OVERFLOW_MODE_SATURATION,
}


def limits_of(settings: Settings) -> pb.Limits:
    """Returns the limits that clients must keep."""
    return pb.Limits(
        max_unary_bytes=settings.max_unary_bytes,
        max_stream_message_bytes=settings.max_stream_message_bytes,
        window_chunks=settings.window_chunks,
        chunk_bytes=settings.chunk_bytes,
        max_open_requests=settings.max_open_requests,
        max_in_flight_bytes=settings.max_in_flight_bytes,
    )


def load_of(engine: Engine, metrics: Metrics) -> pb.Load:
    """Returns the load at this time."""
    return pb.Load(
        in_flight_requests=engine.in_flight_requests,
        in_flight_bytes=engine.in_flight_bytes,
        queued_messages=_value(metrics.queued_messages),
        open_streams=_value(metrics.open_streams),
        state=_STATES[engine.state],
    )


def info_of(
    settings: Settings,
    backend: Backend,
    state: State,
    *,
    edges: Edges | None,
    endpoints: Sequence[Endpoint],
    instance_id: str,
    load: pb.Load,
) -> pb.GetServerInfoResponse:
    """Returns the answer of GetServerInfo.

    Args:
        settings: Settings of the server.
        backend: Open backend.
        state: State of the server.
        edges: Edge cases that the first gradients showed; None before them.
        endpoints: Endpoints of all workers of the host.
        instance_id: Id of this run of the server.
        load: Load of the server.
    """
    return pb.GetServerInfoResponse(
        version=VERSION,
        backend=backend.name,
        device=backend.device,
        kernel_hash=backend.kernel_hash,
        endpoints=[pb.Endpoint(address=at.address, device=at.device, state=_STATES[at.state]) for at in endpoints],
        dtypes=[pb.DataType.Name(dtype.wire) for dtype in backend.dtypes],
        limits=limits_of(settings),
        numerics=pb.Numerics(
            intermediate="float32",
            subnormals=edges is None or edges.subnormals,
            rounding="nearest-even",
            verified=state is not State.STARTING,
            overflow_mode=_OVERFLOW_MODES[backend.overflow_mode],
            **({} if edges is None else {name: getattr(edges, name) for name in ("infinities", "nans", "overflow")}),
        ),
        instance_id=instance_id,
        load=load,
    )


def _value(gauge: Gauge) -> int:
    (family,) = gauge.collect()
    return int(family.samples[0].value)
