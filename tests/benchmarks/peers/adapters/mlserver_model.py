"""MLServer: the Open Inference Protocol over gRPC; the clients are in `mlserver_client`."""

from __future__ import annotations

import asyncio

import numpy as np
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import install_uvloop_event_loop

from benchmarks.peers.adapters.kernel import Kernel

__all__ = ["MODEL", "GradientModel", "serve"]

MODEL = "gradient"


class GradientModel(MLModel):  # type: ignore[misc]
    """Computes in the server's process."""

    async def load(self) -> bool:
        """Loads the kernel."""
        self._kernel = Kernel()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answers one output."""
        tensors = {given.name: np.ascontiguousarray(NumpyCodec.decode_input(given)) for given in payload.inputs}
        y = self._kernel.gradient(tensors["predict"], tensors["label"], tensors["dout"])
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", y)])


def serve(address: str) -> None:
    """Serves until the process ends, without worker processes, which a single model does not need."""
    install_uvloop_event_loop()
    asyncio.run(_serve(address))


async def _serve(address: str) -> None:
    host, port = address.rsplit(":", 1)
    settings = Settings(
        host=host,
        grpc_port=int(port),
        http_port=0,
        metrics_endpoint=None,
        parallel_workers=0,
        debug=False,
        grpc_max_message_length=-1,
    )
    await MLServer(settings).start([ModelSettings(name=MODEL, implementation=GradientModel)])
