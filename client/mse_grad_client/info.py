"""What a server says about itself."""

from __future__ import annotations

from dataclasses import dataclass

from mse_grad.tensor import DTYPES
from mse_grad.v1 import mse_grad_pb2 as pb

__all__ = ["Endpoint", "Limits", "Numerics", "ServerInfo"]

_DTYPE_NAMES = {dtype.wire: dtype.name for dtype in DTYPES}
_STATE_NAMES = {number: name.removeprefix("WORKER_STATE_").lower() for name, number in pb.WorkerState.items()}


@dataclass(frozen=True)
class Endpoint:
    """One worker: its address, its device (e.g. "npu:3") and state.

    The states are "starting", "ready", "recovering", "draining", and "gone" where it is not started again.
    """

    address: str
    device: str
    state: str


@dataclass(frozen=True)
class Limits:
    """Bounds on what the server accepts; see `mse_grad.v1.Limits`."""

    max_unary_bytes: int
    max_stream_message_bytes: int
    window_chunks: int
    chunk_bytes: int
    max_open_requests: int
    max_in_flight_bytes: int


@dataclass(frozen=True)
class Numerics:
    """How the server computes; see `mse_grad.v1.Numerics`."""

    intermediate: str
    subnormals: bool
    rounding: str
    verified: bool


@dataclass(frozen=True)
class ServerInfo:
    """What a server is, where its workers listen, what it accepts and how it computes.

    Attributes:
        version: Version of the server software.
        backend: "cpu" or "ascend".
        device: What computes within the backend: a CPU kernel variant or a SoC name.
        kernel_hash: Hash of the source of the kernel that computes.
        instance_id: Names this run of the worker that answered.
        endpoints: Every worker of the host.
        dtypes: Names of the element types that it computes.
        limits: What it accepts.
        numerics: How it computes.
        transport: How `compute` of the client that asked reaches it: "shared_memory" where it maps memory of this
            process, else "stream".
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

    @property
    def ready(self) -> bool:
        """Whether a worker takes requests."""
        return any(endpoint.state == "ready" for endpoint in self.endpoints)

    @classmethod
    def of_wire(cls, answer: pb.GetServerInfoResponse) -> ServerInfo:
        """Returns what `answer` says; what a newer server names and this version does not know keeps its number."""
        return cls(
            version=answer.version,
            backend=answer.backend,
            device=answer.device,
            kernel_hash=answer.kernel_hash,
            instance_id=answer.instance_id,
            endpoints=tuple(
                Endpoint(at.address, at.device, _STATE_NAMES.get(at.state, str(at.state))) for at in answer.endpoints
            ),
            dtypes=tuple(_DTYPE_NAMES.get(number, str(number)) for number in answer.dtypes),
            limits=Limits(
                max_unary_bytes=answer.limits.max_unary_bytes,
                max_stream_message_bytes=answer.limits.max_stream_message_bytes,
                window_chunks=answer.limits.window_chunks,
                chunk_bytes=answer.limits.chunk_bytes,
                max_open_requests=answer.limits.max_open_requests,
                max_in_flight_bytes=answer.limits.max_in_flight_bytes,
            ),
            numerics=Numerics(
                intermediate=answer.numerics.intermediate,
                subnormals=answer.numerics.subnormals,
                rounding=answer.numerics.rounding,
                verified=answer.numerics.verified,
            ),
        )
