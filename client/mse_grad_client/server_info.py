"""Description of a server: its workers, limits and numerics."""

from __future__ import annotations

from dataclasses import dataclass

from mse_grad.tensor import DTYPES
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_client.routing.info_call import state_name

__all__ = ["Endpoint", "Limits", "Numerics", "ServerInfo"]

_DTYPE_NAMES = {dtype.wire: dtype.name for dtype in DTYPES}
_OVERFLOW_NAMES = {number: name.removeprefix("OVERFLOW_MODE_").lower() for name, number in pb.OverflowMode.items()}


@dataclass(frozen=True)
class Endpoint:
    """One worker: its address, its device (e.g. "npu:3") and state.

    The states are "starting", "ready", "recovering", "draining", and "gone" if the worker is not started again.
    """

    address: str
    device: str
    state: str


@dataclass(frozen=True)
class Limits:
    """Bounds of requests; see `mse_grad.v1.Limits`."""

    max_unary_bytes: int
    max_stream_message_bytes: int
    window_chunks: int
    chunk_bytes: int
    max_open_requests: int
    max_in_flight_bytes: int


@dataclass(frozen=True)
class Numerics:
    """Numerical properties of the server; see `mse_grad.v1.Numerics`.

    `overflow_mode` is "inf_nan", "saturation" or "unspecified"; `infinities`, `nans` and `overflow` are None if the
    server has not verified them.
    """

    intermediate: str
    subnormals: bool
    rounding: str
    verified: bool
    overflow_mode: str = "unspecified"
    infinities: bool | None = None
    nans: bool | None = None
    overflow: bool | None = None


@dataclass(frozen=True)
class ServerInfo:
    """A server's description of itself.

    Attributes:
        version: Version of the server software.
        backend: "cpu" or "ascend".
        device: The device of the backend: a CPU kernel variant or a SoC name.
        kernel_hash: Hash of the kernel's source.
        instance_id: Identifies this run of the worker that answered.
        endpoints: All workers of the host.
        dtypes: Names of the element types that it computes.
        limits: Bounds of requests.
        numerics: Its numerical properties.
        transport: The transport of this client's `compute`: "shared_memory" if the server maps memory of this process,
            "direct" if requests have a TCP connection of their own, else "stream".
        direct_failure: Why the direct connection that the server offers does not stand; "" if it does, or if the server
            offers none or this client wants none.
    """

    version: str
    backend: str
    device: str
    kernel_hash: str
    instance_id: str
    endpoints: tuple[Endpoint, ...]
    dtypes: tuple[str, ...]
    limits: Limits
    numerics: Numerics
    transport: str = "stream"
    direct_failure: str = ""

    @property
    def ready(self) -> bool:
        """Whether a worker accepts requests."""
        return any(endpoint.state == "ready" for endpoint in self.endpoints)

    @classmethod
    def of_wire(cls, answer: pb.GetServerInfoResponse) -> ServerInfo:
        """Returns the description in `answer`; a value that only a newer version has a name for keeps its number."""
        return cls(
            version=answer.version,
            backend=answer.backend,
            device=answer.device,
            kernel_hash=answer.kernel_hash,
            instance_id=answer.instance_id,
            endpoints=tuple(Endpoint(at.address, at.device, state_name(at.state)) for at in answer.endpoints),
            dtypes=tuple(_DTYPE_NAMES.get(number, str(number)) for number in answer.dtypes),
            limits=Limits(
                max_unary_bytes=answer.limits.max_unary_bytes,
                max_stream_message_bytes=answer.limits.max_stream_message_bytes,
                window_chunks=answer.limits.window_chunks,
                chunk_bytes=answer.limits.chunk_bytes,
                max_open_requests=answer.limits.max_open_requests,
                max_in_flight_bytes=answer.limits.max_in_flight_bytes,
            ),
            numerics=_numerics(answer.numerics),
        )


def _numerics(message: pb.Numerics) -> Numerics:
    return Numerics(
        intermediate=message.intermediate,
        subnormals=message.subnormals,
        rounding=message.rounding,
        verified=message.verified,
        overflow_mode=_OVERFLOW_NAMES.get(message.overflow_mode, str(message.overflow_mode)),
        infinities=message.infinities if message.HasField("infinities") else None,
        nans=message.nans if message.HasField("nans") else None,
        overflow=message.overflow if message.HasField("overflow") else None,
    )
