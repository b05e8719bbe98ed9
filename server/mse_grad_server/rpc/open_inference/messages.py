"""Decoder of ModelInferRequest and encoder of ModelInferResponse; operands stay views of the message.

The fast path reads what clients of the protocol send. It leaves everything else (values of wire type fixed64, unpacked
contents, malformed bytes) to the generated code, after `check_fields` has bounded the cost of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from google.protobuf.message import DecodeError

from mse_grad.codec.census import check_fields
from mse_grad.codec.wire import (
    Unrecognised,
    check_skippable,
    extents,
    fields,
    int64_bytes,
    signed64,
    uint64_bytes,
)
from mse_grad.codec.writable import unfilled_message
from mse_grad.open_inference import inference_pb2 as oip
from mse_grad.reasons import ContractError, Reason
from mse_grad.tensor import Buffer

__all__ = ["InferRequest", "Input", "Value", "decode_infer_request", "open_infer_response"]

Value: TypeAlias = bool | int | float | str
"""Value of a parameter."""

# Fields that the fast path reads of one message. A request has a dozen: three inputs, their contents, parameters.
_MOST_FIELDS = 128
# Longest name, id or parameter. A text of a whole message would hold the event loop for seconds, and its id up to
# eight times the message: Python has 4 bytes for each character if one needs them, and the answer repeats the id.
_MOST_TEXT_BYTES = 4096
# Field numbers of InferTensorContents.
_FP32, _FP64 = 6, 7


@dataclass(slots=True)
class Input:
    """`ModelInferRequest.InferInputTensor`.

    Attributes:
        name: Name of the input.
        datatype: Datatype.
        shape: Shape.
        parameters: Names of its parameters.
        contents: Typed contents as little-endian bytes by number of their field; empty without any.
    """

    name: str = ""
    datatype: str = ""
    shape: tuple[int, ...] = ()
    parameters: tuple[str, ...] = ()
    contents: dict[int, Buffer] = field(default_factory=dict)


@dataclass(slots=True)
class InferRequest:
    """`ModelInferRequest`.

    Attributes:
        model_name: Name of the model.
        model_version: Version of the model, or "".
        id: Id that the response repeats.
        parameters: Parameters of the request.
        inputs: Inputs.
        outputs: Name and names of parameters of each wanted output.
        raw: Raw contents of the inputs.
    """

    model_name: str = ""
    model_version: str = ""
    id: str = ""
    parameters: dict[str, Value] = field(default_factory=dict)
    inputs: list[Input] = field(default_factory=list)
    outputs: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    raw: list[Buffer] = field(default_factory=list)


def decode_infer_request(message: bytes) -> InferRequest:
    """Returns the request in `message`, operands as views of it.

    Raises:
        ContractError: MESSAGE_MALFORMED, or MESSAGE_TOO_LARGE if it has more than 32768 fields or a text of more than
            4096 bytes.
    """
    try:
        return _fast(message)
    except (Unrecognised, IndexError, UnicodeDecodeError):
        return _slow(message)


def open_infer_response(
    *,
    id: str,
    datatype: str,
    shape: Sequence[int],
    size_bytes: int,
    contents_field: int | None,
    parameters: bytes = b"",
    in_stream: bool = False,
) -> tuple[bytes, memoryview]:
    """Returns one `ModelInferResponse` and a writable view of the elements of y.

    The rules for the views of `mse_grad.codec.open_results` apply to this view too.

    Args:
        id: Id of the request.
        datatype: Datatype of y.
        shape: Shape of y.
        size_bytes: Bytes of y.
        contents_field: Field of InferTensorContents for the elements; None for raw contents.
        parameters: Fields `parameters` of the response, encoded.
        in_stream: Whether to make a `ModelStreamInferResponse` around the response.
    """
    packed_shape = b"".join(map(int64_bytes, shape))
    output = b"\x0a\x01y" + _prefixed(b"\x12", datatype.encode())  # name = 1, datatype = 2
    if packed_shape:
        output += _prefixed(b"\x1a", packed_shape)  # shape = 3
    head = b"\x0a\x08mse_grad\x12\x011"  # model_name = 1, model_version = 2
    if id:
        head += _prefixed(b"\x1a", id.encode())  # id = 3
    head += parameters
    if contents_field is None:
        head += _prefixed(b"\x2a", output) + b"\x32" + uint64_bytes(size_bytes)  # outputs = 5, raw_output_contents = 6
    else:
        elements = bytes((8 * contents_field + 2,)) + uint64_bytes(size_bytes)
        contents = b"\x2a" + uint64_bytes(len(elements) + size_bytes) + elements  # contents = 5
        head += b"\x2a" + uint64_bytes(len(output) + len(contents) + size_bytes) + output + contents  # outputs = 5
    if in_stream:
        head = b"\x12" + uint64_bytes(len(head) + size_bytes) + head  # infer_response = 2
    message, view = unfilled_message(len(head) + size_bytes)
    view[: len(head)] = head
    return message, view[len(head) :]


def _prefixed(tag: bytes, body: bytes) -> bytes:
    return tag + uint64_bytes(len(body)) + body


def _fast(message: bytes) -> InferRequest:
    view = memoryview(message)
    request = InferRequest()
    for tag, value, stop in fields(message, 0, len(message), most=_MOST_FIELDS):
        if tag == 0x3A:
            request.raw.append(view[value:stop])
        elif tag == 0x2A:
            request.inputs.append(_input(message, view, value, stop))
        elif tag == 0x0A:
            request.model_name = _text(view, value, stop)
        elif tag == 0x12:
            request.model_version = _text(view, value, stop)
        elif tag == 0x1A:
            request.id = _text(view, value, stop)
        elif tag == 0x22:
            name, content = _entry(message, view, value, stop)
            request.parameters[name] = content
        elif tag == 0x32:
            request.outputs.append(_output(message, view, value, stop))
        else:
            check_skippable(tag)
    return request


def _input(message: bytes, view: memoryview, start: int, stop: int) -> Input:
    one = Input()
    shape: list[int] = []
    for tag, value, end in fields(message, start, stop, most=_MOST_FIELDS):
        if tag == 0x0A:
            one.name = _text(view, value, end)
        elif tag == 0x12:
            one.datatype = _text(view, value, end)
        elif tag == 0x1A:
            shape += extents(message[value:end])
        elif tag == 0x18:
            shape.append(signed64(value))
        elif tag == 0x22:
            one.parameters += (_entry(message, view, value, end)[0],)
        elif tag == 0x2A:
            for kind, first, last in fields(message, value, end, most=_MOST_FIELDS):
                if kind not in (8 * _FP32 + 2, 8 * _FP64 + 2) or kind >> 3 in one.contents:
                    raise Unrecognised
                one.contents[kind >> 3] = view[first:last]
        else:
            check_skippable(tag)
    one.shape = tuple(shape)
    return one


def _output(message: bytes, view: memoryview, start: int, stop: int) -> tuple[str, tuple[str, ...]]:
    name, parameters = "", []
    for tag, value, end in fields(message, start, stop, most=_MOST_FIELDS):
        if tag == 0x0A:
            name = _text(view, value, end)
        elif tag == 0x12:
            parameters.append(_entry(message, view, value, end)[0])
        else:
            check_skippable(tag)
    return name, tuple(parameters)


def _entry(message: bytes, view: memoryview, start: int, stop: int) -> tuple[str, Value]:
    """Returns key and value of a map's entry."""
    key, found = "", None
    for tag, value, end in fields(message, start, stop, most=4):
        if tag == 0x0A:
            key = _text(view, value, end)
        elif tag == 0x12 and found is None:  # several are merged
            found = _value(message, view, value, end)
        else:
            raise Unrecognised
    return key, "" if found is None else found


def _value(message: bytes, view: memoryview, start: int, stop: int) -> Value:
    found: Value = ""
    for tag, value, end in fields(message, start, stop, most=4):
        if tag == 0x1A:
            found = _text(view, value, end)
        elif tag == 0x08:
            found = value != 0
        elif tag == 0x10:
            found = signed64(value)
        elif tag == 0x28:
            found = value
        else:
            raise Unrecognised
    return found


def _text(view: memoryview, start: int, stop: int) -> str:
    if stop - start > _MOST_TEXT_BYTES:
        raise Unrecognised
    return str(view[start:stop], "utf-8")


def _slow(message: bytes) -> InferRequest:
    check_fields(message, oip.ModelInferRequest.DESCRIPTOR, most_text_bytes=_MOST_TEXT_BYTES)
    try:
        parsed = oip.ModelInferRequest.FromString(message)
    except DecodeError as cause:
        raise ContractError(
            Reason.MESSAGE_MALFORMED, "message", "the message is not an inference.ModelInferRequest"
        ) from cause
    return InferRequest(
        parsed.model_name,
        parsed.model_version,
        parsed.id,
        {name: _parsed_value(value) for name, value in parsed.parameters.items()},
        [
            Input(
                one.name,
                one.datatype,
                tuple(one.shape),
                tuple(one.parameters),
                _parsed_contents(one.contents),
            )
            for one in parsed.inputs
        ],
        [(one.name, tuple(one.parameters)) for one in parsed.outputs],
        list(parsed.raw_input_contents),
    )


def _parsed_value(value: oip.InferParameter) -> Value:
    kind = value.WhichOneof("parameter_choice")
    found: Value = "" if kind is None else getattr(value, kind)
    return found


def _parsed_contents(contents: oip.InferTensorContents) -> dict[int, Buffer]:
    # Reading the elements one by one would block the event loop for a second per 16 Mi of them. Serialized again, each
    # type is one packed field.
    contents.DiscardUnknownFields()
    packed = contents.SerializeToString()
    view = memoryview(packed)
    return {tag >> 3: view[start:stop] for tag, start, stop in fields(packed, 0, len(packed))}
