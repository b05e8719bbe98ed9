"""Judgement of answers: a right gradient or a typed error, and nothing else."""

from __future__ import annotations

import math
import re
import struct
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from mse_grad.formula import coefficient, gradient_into
from mse_grad.open_inference import inference_pb2 as oip
from mse_grad.reasons import ERROR_DOMAIN, Reason, code_of
from mse_grad.tensor import DTYPES, Array, DType, Reduction
from mse_grad.v1 import mse_grad_pb2 as pb
from support.server.raw_stream import rich_status

__all__ = [
    "StreamVerdict",
    "Wrong",
    "check_error",
    "check_infer",
    "check_infer_in_stream",
    "check_status",
    "check_unary",
    "parsed",
]

# A server that works, is not draining and is not overloaded has no cause to answer with these.
_NEVER = frozenset((Reason.INTERNAL, Reason.NOT_READY, Reason.DRAINING, Reason.DEVICE_UNAVAILABLE))
_REASONS = {reason.value: reason for reason in Reason}
_DTYPES = {dtype.wire: dtype for dtype in DTYPES}
_DATATYPES = {"FP32": _DTYPES[1], "FP16": _DTYPES[2], "BF16": _DTYPES[3], "FP64": _DTYPES[4]}
_INTERNAL_TEXT = re.compile(r"the server failed; its log|Traceback|Exception|0x[0-9a-f]{6,}|/site-packages/|\.py\b")


class Wrong(AssertionError):
    """The server broke a promise."""


def parsed(kind: Any, message: bytes) -> Any:
    """Returns the message as the generated code reads it; None if it is none."""
    try:
        return kind.FromString(message)
    except DecodeError:
        return None


def check_status(status: status_pb2.Status) -> Reason:
    """Returns the reason of a typed error; raises Wrong if it is none, or one for a failed server."""
    for packed in status.details:
        info = error_details_pb2.ErrorInfo()
        if packed.Unpack(info):
            break
    else:
        raise Wrong(f"the error has no ErrorInfo: {status}")
    reason = _REASONS.get(info.reason)
    if reason is None or info.domain != ERROR_DOMAIN or status.code != reason.code.value[0]:
        raise Wrong(f"the error is not of the table of reasons: {status}")
    if reason in _NEVER or _INTERNAL_TEXT.search(status.message):
        raise Wrong(f"the error tells of a failed server: {status}")
    return reason


def check_error(error: Any) -> Reason:
    """Returns the reason of a failed RPC; raises Wrong if it has no typed error, or one for a failed server."""
    keys = {key for key, _ in error.trailing_metadata() or ()}
    if "grpc-status-details-bin" not in keys:
        raise Wrong(f"the RPC failed without details: {error.code()}, {error.details()}")
    status = rich_status(error)
    if code_of(status.code) is not error.code():
        raise Wrong(f"code {error.code()} differs from that of the details: {status}")
    return check_status(status)


def check_unary(message: bytes, answer: bytes) -> None:
    """Checks an answer of ComputeGradient."""
    request, response = parsed(pb.ComputeGradientRequest, message), parsed(pb.ComputeGradientResponse, answer)
    if request is None or response is None:
        raise Wrong(f"an answer to a malformed message, or a malformed answer: {answer[:200]!r}")
    if (response.y.dtype, response.y.shape) != (request.predict.dtype, request.predict.shape):
        raise Wrong(f"y has another dtype or shape than predict: {response.y.dtype} {response.y.shape}")
    _check_gradient(
        response.y.data,
        *(tensor.data for tensor in (request.predict, request.label, request.dout)),
        dtype=_DTYPES[request.predict.dtype],
        reduction=Reduction(request.reduction),
        numel=request.numel or math.prod(request.predict.shape),
    )


def check_infer(message: bytes, answer: bytes) -> None:
    """Checks an answer of ModelInfer."""
    request, response = parsed(oip.ModelInferRequest, message), parsed(oip.ModelInferResponse, answer)
    if request is None or response is None:
        raise Wrong(f"an answer to a malformed message, or a malformed answer: {answer[:200]!r}")
    _check_infer(request, response)


def check_infer_in_stream(message: bytes, answer: bytes) -> None:
    """Checks an answer of ModelStreamInfer, which tells of an error by a text alone."""
    response = parsed(oip.ModelStreamInferResponse, answer)
    if response is None:
        raise Wrong(f"a malformed answer: {answer[:200]!r}")
    if not response.error_message:
        request = parsed(oip.ModelInferRequest, message)
        if request is None:
            raise Wrong("an answer to a malformed message")
        _check_infer(request, response.infer_response)
    elif _INTERNAL_TEXT.search(response.error_message):
        raise Wrong(f"the error tells of a failed server: {response.error_message}")


def _check_infer(request: Any, response: Any) -> None:
    (output,) = response.outputs
    operands = {}
    for index, one in enumerate(request.inputs):
        raw = request.raw_input_contents[index] if request.raw_input_contents else _typed(one)
        operands[one.name] = (one, raw)
    predict = operands["predict"][0]
    if (response.id, output.datatype, output.shape) != (request.id, predict.datatype, predict.shape):
        raise Wrong(f"id, datatype or shape of the answer is another: {response.id} {output.datatype} {output.shape}")
    y = response.raw_output_contents[0] if request.raw_input_contents else _typed(output)
    reduction = request.parameters["reduction"].string_param if "reduction" in request.parameters else "mean"
    numel = 0
    if "numel" in request.parameters:
        given = request.parameters["numel"]
        numel = getattr(given, given.WhichOneof("parameter_choice"))
    _check_gradient(
        y,
        *(operands[name][1] for name in ("predict", "label", "dout")),
        dtype=_DATATYPES[predict.datatype],
        reduction=Reduction.parse(reduction),
        numel=numel or math.prod(predict.shape),
    )


def _typed(tensor: Any) -> bytes:
    contents = tensor.contents
    if tensor.datatype == "FP64":
        return struct.pack(f"<{len(contents.fp64_contents)}d", *contents.fp64_contents)
    return struct.pack(f"<{len(contents.fp32_contents)}f", *contents.fp32_contents)


class StreamVerdict:
    """Judge of one stream, which knows what was sent on it."""

    def __init__(self) -> None:
        self._headers: dict[int, pb.GradientHeader] = {}
        self._chunks: dict[tuple[int, int], list[pb.GradientChunk]] = {}
        self._ids: set[int] = set()
        self.last_id = 0

    def sent(self, message: bytes) -> None:
        """Notes a message that is about to be sent."""
        request = parsed(pb.StreamGradientsRequest, message)
        if request is None:
            return
        for header in request.headers:
            self._ids.add(header.id)
            if header.id > self.last_id:
                self.last_id = header.id
                self._headers[header.id] = header
        for chunk in request.chunks:
            self._ids.add(chunk.id)
            self._chunks.setdefault((chunk.id, chunk.offset), []).append(chunk)
        self._ids.update(request.cancel_ids)

    def check(self, answer: bytes) -> pb.StreamGradientsResponse:
        """Checks one message of the server; returns it."""
        response = parsed(pb.StreamGradientsResponse, answer)
        if response is None:
            raise Wrong(f"a malformed answer: {answer[:200]!r}")
        for result in response.results:
            self._check_result(result)
        for error in response.errors:
            if error.id not in self._ids:
                raise Wrong(f"an error for request {error.id}, which nobody named")
            check_status(error.status)
        if response.HasField("go_away"):
            check_status(response.go_away.status)
        return response  # type: ignore[no-any-return]

    def _check_result(self, result: pb.GradientResult) -> None:
        header: Any = self._headers.get(result.id)
        chunks = self._chunks.get((result.id, result.offset), [])
        if header is None or (not chunks and (result.y or result.offset)):
            raise Wrong(f"a result for element {result.offset} of request {result.id}, which was not sent")
        if not result.y:  # in shared memory, or a tensor without elements
            if len(chunks) == 1 and chunks[0].predict and math.prod(header.shape):
                raise Wrong("a result without elements for a chunk with elements")
            return
        failures = []
        for chunk in chunks:
            dout = header.scalar_dout if header.HasField("scalar_dout") else chunk.dout
            try:
                _check_gradient(
                    result.y,
                    chunk.predict,
                    chunk.label,
                    dout,
                    dtype=_DTYPES[header.dtype],
                    reduction=Reduction(header.reduction),
                    numel=header.numel or math.prod(header.shape),
                )
                return
            except (Wrong, ValueError) as failure:
                failures.append(failure)
        raise Wrong(f"a wrong gradient: {failures[0]}")


def _check_gradient(
    y: bytes, predict: bytes, label: bytes, dout: bytes, *, dtype: DType, reduction: Reduction, numel: int
) -> None:
    if len(y) != len(predict):
        raise Wrong(f"y has {len(y)} bytes, predict {len(predict)}")
    if not y:
        return
    given = [np.frombuffer(operand, dtype.numpy) for operand in (predict, label, dout)]
    expected = np.empty(given[0].size, dtype.numpy)
    gradient_into(expected, *given, c=coefficient(reduction, numel, dtype), dtype=dtype)
    if not _are_same(np.frombuffer(y, dtype.numpy), expected):
        raise Wrong(f"y is {y[:64].hex()}; right is {expected.tobytes()[:64].hex()}")


def _are_same(y: Array, expected: Array) -> bool:
    if y.tobytes() == expected.tobytes():
        return True
    nan = np.isnan(expected.astype(np.float64))  # the bits of a NaN are free
    return bool(np.array_equal(np.isnan(y.astype(np.float64)), nan)) and y[~nan].tobytes() == expected[~nan].tobytes()
