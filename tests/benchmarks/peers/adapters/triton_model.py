"""Triton's server as PyTriton ships and runs it, calling the kernel from Python; Triton's own client."""

from __future__ import annotations

import signal
import sys

import numpy as np
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig, TritonSecurityConfig

from benchmarks.peers.adapters import triton_client
from benchmarks.peers.adapters.kernel import Kernel
from benchmarks.peers.adapters.operands import Array, Prepare

__all__ = ["DISTRIBUTION", "over_grpc", "over_shared_memory", "serve"]

DISTRIBUTION = "nvidia-pytriton"

# PyTriton registers memory only for clients that send its token.
_TOKEN, _TOKEN_HEADER = "bench-peers", "triton-grpc-protocol-triton-access-token"


def serve(address: str) -> None:
    """Serves until the process ends: one model for each dtype, without batching, since every request is whole."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that the `with` below ends Triton and frees its memory
    host, port = address.rsplit(":", 1)
    kernel = Kernel()

    def infer(requests: list[dict[str, Array]]) -> list[dict[str, Array]]:
        return [{"y": kernel.gradient(given["predict"], given["label"], given["dout"])} for given in requests]

    config = TritonConfig(grpc_address=host, grpc_port=int(port), allow_metrics=False, exit_timeout_secs=20)
    with Triton(config=config, security_config=TritonSecurityConfig(access_token=_TOKEN)) as triton:
        for dtype in (np.float32, np.float16):
            triton.bind(
                model_name=_model(np.dtype(dtype).name),
                infer_func=infer,
                inputs=[Tensor(name=name, dtype=dtype, shape=(-1,)) for name in ("predict", "label", "dout")],
                outputs=[Tensor(name="y", dtype=dtype, shape=(-1,))],
                config=ModelConfig(batching=False),
                strict=False,
            )
        triton.serve()


def over_grpc(address: str) -> Prepare:
    """Tensors inside the messages."""
    return triton_client.over_grpc(address, _model)


def over_shared_memory(address: str) -> Prepare:
    """Tensors in system shared memory; the messages name their place."""
    return triton_client.over_shared_memory(address, _model, {_TOKEN_HEADER: _TOKEN})


def _model(dtype: str) -> str:
    return f"gradient_{dtype}"
