"""The model mse_grad of the Open Inference Protocol: its description, and the rules for its requests."""

from __future__ import annotations

from collections.abc import Sequence

from mse_grad.codec import TensorFrame, UnaryRequest
from mse_grad.open_inference import inference_pb2 as oip
from mse_grad.reasons import ContractError, Reason
from mse_grad.tensor import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Buffer, DType, Reduction
from mse_grad_server.errors import ModelUnknown, NotOffered
from mse_grad_server.rpc.open_inference.messages import InferRequest, Input, decode_infer_request, open_infer_response

__all__ = [
    "INPUTS",
    "MODEL",
    "OUTPUT",
    "VERSION",
    "InferAsked",
    "check_model",
    "datatype_of",
    "failed_response",
    "stream_asked",
]

MODEL = "mse_grad"
VERSION = "1"
INPUTS = ("predict", "label", "dout")
OUTPUT = "y"

_DATATYPES: dict[str, DType] = {"FP32": FLOAT32, "FP16": FLOAT16, "BF16": BFLOAT16, "FP64": FLOAT64}
_NAMES = {dtype: name for name, dtype in _DATATYPES.items()}
# Field of InferTensorContents of each datatype that has one.
_CONTENTS = {"FP32": 6, "FP64": 7}
# Parameters that clients of the protocol send by themselves. A request here has no sequence, priority or queue of its
# own, so they change nothing. Any other unknown parameter is refused, because a misspelt reduction would give wrong
# gradients.
_WITHOUT_EFFECT = frozenset(
    (
        "binary_data_output",
        "content_type",
        "priority",
        "sequence_end",
        "sequence_id",
        "sequence_start",
        "timeout",
        "triton_enable_empty_final_response",
    )
)
_SHARED_MEMORY = frozenset(("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"))
# `parameters` of a response that the fallback computed: {"fallback": true}.
_FALLBACK = b"\x22\x0e\x0a\x08fallback\x12\x02\x08\x01"


def datatype_of(dtype: DType) -> str:
    """Returns the protocol's name of a dtype."""
    return _NAMES[dtype]


def check_model(name: str, version: str) -> None:
    """Raises ModelUnknown unless the server has this version of the model; "" stands for any version."""
    if name != MODEL:
        raise ModelUnknown(f"there is no model {_short(name)}; the one model is '{MODEL}'")
    if version not in ("", VERSION):
        raise ModelUnknown(f"the model '{MODEL}' has no version {_short(version)}; it has version '{VERSION}'")


class InferAsked:
    """A `ModelInferRequest` for the model.

    Args:
        message: The message.
        in_stream: Whether it came over ModelStreamInfer.

    Raises:
        ContractError: The message or the request breaks a rule.
        ModelUnknown: The request names another model.
        NotOffered: The request needs a part of the protocol that is not offered.
    """

    __slots__ = ("_datatype", "_id", "_in_stream", "_is_raw", "request")

    def __init__(self, message: bytes, *, in_stream: bool = False) -> None:
        infer = decode_infer_request(message)
        check_model(infer.model_name, infer.model_version)
        _check_outputs(infer.outputs)
        reduction, numel = _parameters_of(infer)
        self._id = infer.id
        self._in_stream = in_stream
        self._is_raw = bool(infer.raw)
        frames = _frames(infer, is_raw=self._is_raw)
        self._datatype = next(one.datatype for one in infer.inputs if one.name == "predict")
        self.request = UnaryRequest(frames["predict"], frames["label"], frames["dout"], reduction, numel)

    def open_answer(self, size_bytes: int, falls_back: bool) -> tuple[bytes, memoryview]:
        """Returns the answer and a writable view of its elements."""
        return open_infer_response(
            id=self._id,
            datatype=self._datatype,
            shape=self.request.predict.shape,
            size_bytes=size_bytes,
            contents_field=None if self._is_raw else _CONTENTS[self._datatype],
            parameters=_FALLBACK if falls_back else b"",
            in_stream=self._in_stream,
        )


def stream_asked(message: bytes) -> InferAsked:
    """Returns the request in a message of ModelStreamInfer; raises as `InferAsked` does."""
    return InferAsked(message, in_stream=True)


def failed_response(message: bytes, error_message: str) -> bytes:
    """Returns the `ModelStreamInferResponse` for a failed message, with its id if that can be read."""
    try:
        id = decode_infer_request(message).id
    except ContractError:
        id = ""
    response = oip.ModelInferResponse(id=id)
    return oip.ModelStreamInferResponse(error_message=error_message, infer_response=response).SerializeToString()


def _parameters_of(infer: InferRequest) -> tuple[Reduction, int]:
    reduction, numel = Reduction.MEAN, 0
    for name, value in infer.parameters.items():
        if name == "reduction":
            reduction = Reduction.parse(value[:64] if isinstance(value, str) else value)
        elif name == "numel":
            if type(value) is not int:
                raise ContractError(Reason.PARAMETER_INVALID, name, "the parameter numel must be an integer")
            numel = value
        elif name not in _WITHOUT_EFFECT:
            raise ContractError(
                Reason.PARAMETER_INVALID,
                "parameters",
                f"the model '{MODEL}' has no parameter {_short(name)}; it has 'reduction' ('mean', 'sum' or 'none') "
                "and 'numel'",
            )
    return reduction, numel


def _check_outputs(outputs: Sequence[tuple[str, tuple[str, ...]]]) -> None:
    for name, parameters in outputs:
        if name != OUTPUT:
            raise ContractError(
                Reason.INPUTS_INVALID, "outputs", f"the model '{MODEL}' has no output {_short(name)}; it has '{OUTPUT}'"
            )
        if _SHARED_MEMORY.intersection(parameters):
            raise _no_shared_memory()
        if "classification" in parameters:
            raise NotOffered("classification is not offered: y is a gradient")


def _frames(infer: InferRequest, *, is_raw: bool) -> dict[str, TensorFrame]:
    inputs = infer.inputs
    if sorted(one.name for one in inputs[:4]) != ["dout", "label", "predict"]:
        names = ", ".join(_short(one.name) for one in inputs[:4]) or "none"
        raise ContractError(
            Reason.INPUTS_INVALID,
            "inputs",
            f"the request has {len(inputs)} inputs ({names}); it must have 'predict', 'label' and 'dout', each once",
        )
    for one in inputs:
        if _SHARED_MEMORY.intersection(one.parameters):
            raise _no_shared_memory()
    if is_raw and len(infer.raw) != len(inputs):
        raise ContractError(
            Reason.INPUTS_INVALID,
            "raw_input_contents",
            f"the request has {len(infer.raw)} raw_input_contents for {len(inputs)} inputs; it must have one for each",
        )
    frames = {}
    for index, one in enumerate(inputs):
        dtype = _DATATYPES.get(one.datatype)
        if dtype is None:
            raise ContractError(
                Reason.DTYPE_UNKNOWN,
                one.name,
                f"{one.name} has datatype {_short(one.datatype)}; it must be one of {', '.join(_DATATYPES)}",
            )
        data = infer.raw[index] if is_raw else _typed(one)
        if is_raw and one.contents:
            raise ContractError(
                Reason.INPUTS_INVALID, one.name, f"{one.name} has contents and raw_input_contents; it may have one"
            )
        frames[one.name] = TensorFrame(dtype.wire, one.shape, data)
    return frames


def _typed(one: Input) -> Buffer:
    number = _CONTENTS.get(one.datatype)
    if number is None:
        raise ContractError(
            Reason.INPUTS_INVALID,
            one.name,
            f"{one.name} is {one.datatype}, which has no typed contents; send its bytes in raw_input_contents",
        )
    if set(one.contents) - {number}:
        raise ContractError(
            Reason.INPUTS_INVALID,
            one.name,
            f"{one.name} has contents of a different type from its datatype {one.datatype}",
        )
    return one.contents.get(number, b"")


def _no_shared_memory() -> NotOffered:
    return NotOffered(
        "shared memory by name is not offered; send the elements in the message, or use the SDK of mse_grad, which "
        "shares memory by itself"
    )


def _short(text: str) -> str:
    return repr(text if len(text) <= 64 else f"{text[:61]}...")
