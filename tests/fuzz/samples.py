"""Valid messages of every service, of all kinds that the contract knows; random and small."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import Message
from grpc_channelz.v1 import channelz_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from mse_grad.open_inference import inference_pb2 as oip
from mse_grad.tensor import DTYPES, Array, DType, Reduction
from mse_grad.v1 import mse_grad_pb2 as pb

__all__ = [
    "SEGMENT_BYTES",
    "SMALL",
    "SmallMethod",
    "StreamSamples",
    "infer_request",
    "small_message",
    "unary_request",
]

SEGMENT_BYTES = 64 * 1024
"""Size of each of the two segments of shared memory that a session hands over, numbers 1 and 2."""

_SHAPES = ((), (1,), (3,), (7,), (16,), (33,), (0,), (2, 3), (4, 0, 5), (1, 1, 1), (2, 1, 2, 1, 2, 1, 2, 1), (257,))
_DATATYPES = {"float32": "FP32", "float16": "FP16", "bfloat16": "BF16", "float64": "FP64"}
_REDUCTIONS = ("none", "mean", "sum")
_MOST_IN_PACKET = 300  # of float64, in each of four requests of five tensors
_OPERANDS = np.random.default_rng(5).standard_normal(120_000)


def _shape(rng: random.Random) -> tuple[int, ...]:
    return (rng.choice((1000, 4000, 20_000)),) if rng.random() < 0.01 else rng.choice(_SHAPES)


def _elements(rng: random.Random, count: int, dtype: DType) -> Array:
    at = rng.randrange(_OPERANDS.size - count)
    return _OPERANDS[at : at + count].astype(dtype.numpy)


class StreamSamples:
    """Messages of one stream, with ids that ascend.

    Args:
        rng: Source of every choice.
        shares_memory: Whether chunks may lie in shared memory.
        fits_packets: Whether messages must fit a packet of a unix socket.

    Attributes:
        next_id: Least id that no sample has used.
    """

    def __init__(self, rng: random.Random, *, shares_memory: bool, fits_packets: bool = False) -> None:
        self._fits_packets = fits_packets
        self._rng = rng
        self._shares_memory = shares_memory
        self._open: list[tuple[int, DType, int, int, bool]] = []  # id, dtype, count, sent, whether dout is scalar
        self.next_id = 1

    def message(self) -> pb.StreamGradientsRequest:
        """Returns a message with one to four headers, chunks or cancellations."""
        rng, message = self._rng, pb.StreamGradientsRequest()
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            if self._open and rng.random() < 0.1:
                message.cancel_ids.append(self._open.pop(rng.randrange(len(self._open)))[0])
            elif self._open and rng.random() < 0.5:
                self._continue(message, rng.randrange(len(self._open)))
            else:
                self._begin(message)
        return message

    def _begin(self, message: pb.StreamGradientsRequest) -> None:
        rng = self._rng
        dtype, shape = rng.choice(DTYPES), _shape(rng)
        if self._fits_packets and math.prod(shape) > _MOST_IN_PACKET:
            shape = (_MOST_IN_PACKET,)
        each = math.prod(shape)
        reduction = rng.choice(tuple(Reduction))
        header = message.headers.add(id=self.next_id, dtype=dtype.wire, shape=shape, reduction=reduction)
        self.next_id += rng.choice((1, 1, 1, 5))
        tensors = 1
        if rng.random() < 0.15:
            header.tensors = tensors = rng.choice((1, 2, 5))
        if reduction is Reduction.MEAN and rng.random() < 0.3:
            header.numel = each * rng.choice((1, 2, 1000)) + (not each)
        is_scalar = rng.random() < 0.4
        if is_scalar:
            header.scalar_dout = _elements(rng, 1, dtype).tobytes()
        if rng.random() < 0.1:
            header.time_left_us = rng.choice((1, 1000, 10**7, 10**12))
        if rng.random() < 0.1:
            header.request_id = f"request-{header.id}"
        if rng.random() < 0.1:
            header.traceparent = f"00-{rng.getrandbits(128):032x}-{rng.getrandbits(64):016x}-01"
        if rng.random() < 0.1:
            header.metadata.add(key="step", value=str(header.id))
        if each * tensors:
            self._open.append((header.id, dtype, each * tensors, 0, is_scalar))
            if rng.random() < 0.8:
                self._continue(message, len(self._open) - 1)

    def _continue(self, message: pb.StreamGradientsRequest, index: int) -> None:
        rng = self._rng
        id, dtype, count, sent, is_scalar = self._open.pop(index)
        n = count - sent if rng.random() < 0.7 else rng.randint(1, count - sent)
        chunk = message.chunks.add(id=id, offset=sent)
        slot_bytes = SEGMENT_BYTES // 4
        if self._shares_memory and n * dtype.itemsize_bytes <= slot_bytes and rng.random() < 0.6:
            shared, segment = chunk.shared, rng.choice((1, 2))
            shared.elements = n
            shared.predict_segment = shared.label_segment = shared.y_segment = segment
            shared.label_offset, shared.y_offset = slot_bytes, 3 * slot_bytes
            if not is_scalar:
                shared.dout_segment, shared.dout_offset = segment, 2 * slot_bytes
        else:
            chunk.predict = _elements(rng, n, dtype).tobytes()
            chunk.label = _elements(rng, n, dtype).tobytes()
            chunk.dout = b"" if is_scalar else _elements(rng, n, dtype).tobytes()
        if sent + n < count:
            self._open.append((id, dtype, count, sent + n, is_scalar))


def unary_request(rng: random.Random) -> Any:
    """Returns a request of ComputeGradient."""
    dtype, shape = rng.choice(DTYPES), _shape(rng)
    count = math.prod(shape)
    scalar = rng.choice(((), (1,))) if rng.random() < 0.4 else None
    reduction = rng.choice(tuple(Reduction))
    made: Any = pb.ComputeGradientRequest()
    made.reduction = reduction
    for tensor, at in ((made.predict, shape), (made.label, shape), (made.dout, shape if scalar is None else scalar)):
        tensor.dtype = dtype.wire
        tensor.shape.extend(at)
        tensor.data = _elements(rng, math.prod(at), dtype).tobytes()
    if reduction is Reduction.MEAN and rng.random() < 0.3:
        made.numel = count * rng.choice((1, 2, 1000)) + (not count)
    return made


def infer_request(rng: random.Random) -> oip.ModelInferRequest:
    """Returns a request of ModelInfer, with raw or typed contents."""
    dtype, shape = rng.choice(DTYPES), _shape(rng)
    made = oip.ModelInferRequest(model_name="mse_grad", id=f"{rng.getrandbits(16)}")
    datatype = _DATATYPES[dtype.name]
    is_typed = datatype in ("FP32", "FP64") and rng.random() < 0.4
    names = ["predict", "label", "dout"]
    rng.shuffle(names)
    for name in names:
        at = (1,) if name == "dout" and rng.random() < 0.3 else shape
        one = made.inputs.add(name=name, datatype=datatype, shape=at)
        tensor = _elements(rng, math.prod(at), dtype)
        if not is_typed:
            made.raw_input_contents.append(tensor.tobytes())
        elif datatype == "FP32":
            one.contents.fp32_contents.extend(tensor.tolist())
        else:
            one.contents.fp64_contents.extend(tensor.tolist())
    reduction = rng.choice(_REDUCTIONS)
    if reduction != "mean" or rng.random() < 0.5:
        made.parameters["reduction"].string_param = reduction
    if reduction == "mean" and rng.random() < 0.3:
        made.parameters["numel"].int64_param = max(1, math.prod(shape)) * 3
    if rng.random() < 0.2:
        made.parameters["priority"].uint64_param = 3
    if rng.random() < 0.3:
        made.outputs.add(name="y")
    if rng.random() < 0.2:
        made.model_version = "1"
    return made


@dataclass(frozen=True)
class SmallMethod:
    """A method whose messages are small.

    Attributes:
        path: "/package.Service/Method".
        request: Kind of its request; None if nothing is known of the method.
        values: Values of the request's fields that mean something.
        streams_in: Whether the caller may send several messages.
        streams_out: Whether several answers may come.
        ends: Whether the call ends by itself.
    """

    path: str
    request: type[Message] | None
    values: tuple[dict[str, Any], ...] = ({},)
    streams_in: bool = False
    streams_out: bool = False
    ends: bool = True


_SERVICES = ("", "mse_grad.v1.MseGradService", "inference.GRPCInferenceService", "no.such.Service")
_MODELS: tuple[dict[str, Any], ...] = (
    {"name": "mse_grad"},
    {"name": "mse_grad", "version": "1"},
    {"name": "other"},
    {},
)
_REFLECTED = (
    {"list_services": ""},
    {"file_by_filename": "mse_grad/v1/mse_grad.proto"},
    {"file_containing_symbol": "mse_grad.v1.MseGradService"},
    {"all_extension_numbers_of_type": "mse_grad.v1.Tensor"},
    {"file_containing_extension": {"containing_type": "mse_grad.v1.Tensor", "extension_number": 5}},
)
_NUMBERED = tuple({key: value} for key in ("start_server_id",) for value in (0, 1, 2**62))
_HEALTH, _CHANNELZ, _INFERENCE = (
    "/grpc.health.v1.Health",
    "/grpc.channelz.v1.Channelz",
    "/inference.GRPCInferenceService",
)

SMALL: tuple[SmallMethod, ...] = (
    SmallMethod("/mse_grad.v1.MseGradService/GetServerInfo", pb.GetServerInfoRequest),
    SmallMethod(f"{_HEALTH}/Check", health_pb2.HealthCheckRequest, tuple({"service": name} for name in _SERVICES)),
    SmallMethod(
        f"{_HEALTH}/Watch",
        health_pb2.HealthCheckRequest,
        tuple({"service": name} for name in _SERVICES),
        streams_out=True,
        ends=False,
    ),
    *(
        SmallMethod(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest,
            _REFLECTED,
            streams_in=True,
            streams_out=True,
        )
        for version in ("v1", "v1alpha")
    ),
    *(
        SmallMethod(f"{_CHANNELZ}/Get{name}", getattr(channelz_pb2, f"Get{name}Request"), values)
        for name, values in {
            "TopChannels": ({}, {"start_channel_id": 5}, {"start_channel_id": -1}),
            "Servers": _NUMBERED,
            "Server": ({"server_id": 1}, {"server_id": 2**62}, {"server_id": -1}),
            "ServerSockets": ({"server_id": 1}, {"server_id": 2, "start_socket_id": 7, "max_results": 3}),
            "Channel": ({"channel_id": 1}, {"channel_id": -5}),
            "Subchannel": ({"subchannel_id": 1}, {}),
            "Socket": ({"socket_id": 3}, {"socket_id": 2**63 - 1}, {"socket_id": -1}),
        }.items()
    ),
    *(
        SmallMethod(f"{_INFERENCE}/{name}", getattr(oip, f"{name}Request"), values)
        for name, values in {
            "ServerLive": ({},),
            "ServerReady": ({},),
            "ModelReady": _MODELS,
            "ServerMetadata": ({},),
            "ModelMetadata": _MODELS,
            "ModelConfig": _MODELS,
            "ModelStatistics": _MODELS,
            "RepositoryIndex": ({}, {"ready": True}),
        }.items()
    ),
    SmallMethod(f"{_INFERENCE}/SystemSharedMemoryRegister", None),
    SmallMethod(f"{_INFERENCE}/NoSuchMethod", None),
    SmallMethod("/no.such.Service/Method", None),
)


def small_message(rng: random.Random, method: SmallMethod) -> bytes:
    """Returns a message of a small method."""
    if method.request is None:
        return rng.randbytes(rng.choice((0, 1, 50)))
    return method.request(**rng.choice(method.values)).SerializeToString()
