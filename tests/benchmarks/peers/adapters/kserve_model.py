"""KServe's model server: the Open Inference Protocol over gRPC, with raw tensors."""

from __future__ import annotations

import asyncio

import kserve
import numpy as np

from benchmarks.peers.adapters.kernel import Kernel
from benchmarks.peers.adapters.operands import Array, Call, Operands, Prepare

__all__ = ["DISTRIBUTION", "connect", "serve"]

DISTRIBUTION = "kserve"

_MODEL = "gradient"
_DATATYPES = {"float32": "FP32", "float16": "FP16"}


class GradientModel(kserve.Model):  # type: ignore[misc]
    """Ready at once."""

    def __init__(self) -> None:
        super().__init__(_MODEL)
        self._kernel = Kernel()
        self.ready = True

    def predict(
        self, payload: kserve.InferRequest, headers: object = None, response_headers: object = None
    ) -> kserve.InferResponse:
        """Answers one output."""
        predict, label, dout = (given.as_numpy() for given in payload.inputs)
        y = self._kernel.gradient(predict, label, dout)
        output = kserve.InferOutput("y", list(y.shape), _DATATYPES[y.dtype.name])
        output.set_data_from_numpy(y, binary_data=True)
        return kserve.InferResponse(response_id=payload.id, model_name=_MODEL, infer_outputs=[output])


def serve(address: str) -> None:
    """Serves until the process ends; the server reads the command line, where flags lift the limit on messages."""
    port = int(address.rsplit(":", 1)[1])
    kserve.ModelServer(http_port=0, grpc_port=port, enable_latency_logging=False).start([GradientModel()])


def connect(address: str) -> Prepare:
    """KServe's own client, which is asynchronous."""
    loop = asyncio.new_event_loop()

    async def make() -> kserve.InferenceGRPCClient:
        return kserve.InferenceGRPCClient(address, timeout=None)

    client = loop.run_until_complete(make())

    def prepare(operands: Operands) -> Call:
        given = {"predict": operands.predict, "label": operands.label, "dout": operands.dout}
        datatype = _DATATYPES[operands.predict.dtype.name]

        def call() -> Array:
            inputs = []
            for name, array in given.items():
                one = kserve.InferInput(name, list(array.shape), datatype)
                one.set_data_from_numpy(array, binary_data=True)
                inputs.append(one)
            request = kserve.InferRequest(model_name=_MODEL, infer_inputs=inputs)
            response = loop.run_until_complete(client.infer(request))
            y: Array = np.asarray(response.outputs[0].as_numpy())
            return y

        return call

    return prepare
