"""Requests and answers of the Open Inference Protocol, made with the generated messages."""

from __future__ import annotations

from typing import Any

import numpy as np

from mse_grad.open_inference import inference_pb2 as oip
from mse_grad.tensor import FLOAT32, FLOAT64, Array, DType
from support.server.raw_stream import operands

__all__ = ["DATATYPES", "FOUR", "elements", "infer_request"]

FOUR = [1.0, -2.0, 3.5, 0.0]
DATATYPES = {"float32": "FP32", "float16": "FP16", "bfloat16": "BF16", "float64": "FP64"}


def infer_request(
    values: Any = FOUR,
    *,
    dtype: DType = FLOAT32,
    shape: tuple[int, ...] | None = None,
    typed: bool = False,
    id: str = "mine",
    model_name: str = "mse_grad",
) -> oip.ModelInferRequest:
    """Returns a request with the operands that `raw_stream.operands` derives from `values`."""
    made = oip.ModelInferRequest(model_name=model_name, id=id)
    for name, tensor in zip(("predict", "label", "dout"), operands(values, dtype), strict=True):
        one = made.inputs.add(name=name, datatype=DATATYPES[dtype.name], shape=shape or (len(values),))
        if not typed:
            made.raw_input_contents.append(tensor.tobytes())
        elif dtype is FLOAT64:
            one.contents.fp64_contents.extend(tensor.tolist())
        else:
            one.contents.fp32_contents.extend(tensor.tolist())
    return made


def elements(answer: oip.ModelInferResponse, dtype: DType) -> Array:
    """Returns the raw elements of y."""
    (output,) = answer.outputs
    assert (output.name, output.datatype) == ("y", DATATYPES[dtype.name])
    (raw,) = answer.raw_output_contents
    return np.frombuffer(raw, dtype.numpy).reshape(tuple(output.shape))
