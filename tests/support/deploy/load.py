"""Callers of every kind, each in a thread, which check the bits of every answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import numpy as np

from mse_grad.open_inference import inference_pb2 as oip
from mse_grad.open_inference.inference_pb2_grpc import GRPCInferenceServiceStub
from mse_grad.tensor import Array
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad.v1.mse_grad_pb2_grpc import MseGradServiceStub
from mse_grad_client import ClientOptions, MseGradClient
from support.waiting import PATIENCE_S, wait_until

__all__ = ["Load", "running_load"]

_ELEMENTS = 1000
# A call that waits longer counts as failed.
_TIMEOUT_S = 20.0
_RANDOM = np.random.default_rng(7)
_PREDICT, _LABEL, _DOUT = (_RANDOM.standard_normal(_ELEMENTS).astype(np.float32) for _ in range(3))
_WANTED = (np.float32(2) * (_PREDICT - _LABEL) * _DOUT).astype(np.float32)


class Load:
    """Counts of the calls so far, by kind of caller.

    Thread safety: may be used from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._succeeded: dict[str, int] = {}
        self._failed: dict[str, list[str]] = {}
        self.ending = threading.Event()

    def failures(self) -> dict[str, list[str]]:
        """Returns the errors so far."""
        with self._lock:
            return {kind: list(errors) for kind, errors in self._failed.items() if errors}

    def go_on(self, calls: int) -> None:
        """Waits until every caller has made `calls` more calls with the right bits."""
        with self._lock:
            wanted = {kind: count + calls for kind, count in self._succeeded.items()}

        def is_reached() -> bool:
            with self._lock:
                return all(self._succeeded[kind] >= count for kind, count in wanted.items())

        wait_until(is_reached, patience_s=2 * PATIENCE_S, otherwise=f"calls do not succeed: {self.failures()}")

    def counts(self) -> dict[str, int]:
        """Returns the number of successful calls so far."""
        with self._lock:
            return dict(self._succeeded)

    def _call_until_the_end(self, kind: str, call: Callable[[], Array]) -> None:
        while not self.ending.is_set():
            error = ""
            try:
                if call().tobytes() != _WANTED.tobytes():
                    error = "wrong bits"
            except Exception as failed:  # noqa: BLE001 - every error counts
                error = f"{type(failed).__name__}: {failed}"
            with self._lock:
                if error:
                    self._failed[kind].append(error)
                else:
                    self._succeeded[kind] += 1

    @contextmanager
    def _caller(self, kind: str, call: Callable[[], Array]) -> Iterator[None]:
        self._succeeded[kind], self._failed[kind] = 0, []
        thread = threading.Thread(target=self._call_until_the_end, args=(kind, call), name=kind)
        thread.start()
        try:
            yield
        finally:
            self.ending.set()
            thread.join()


@contextmanager
def running_load(address: str, ca: Path, *, kinds: tuple[str, ...] = ("unary", "oip", "sdk")) -> Iterator[Load]:
    """Runs one caller of each kind through one TLS connection each, until the end of the `with`.

    Args:
        address: "host:port".
        ca: PEM file of the CA to trust.
        kinds: "unary" for ComputeGradient, "oip" for ModelInfer, "sdk" for the streams of the SDK.
    """
    load = Load()
    with ExitStack() as opened:
        callers: Mapping[str, Callable[[], Callable[[], Array]]] = {
            "unary": lambda: _unary(opened.enter_context(_channel(address, ca))),
            "oip": lambda: _open_inference(opened.enter_context(_channel(address, ca))),
            "sdk": lambda: _sdk(
                opened.enter_context(
                    MseGradClient(
                        address,
                        # Nothing of the servers that does not pass the proxy, which is on their host.
                        options=ClientOptions(
                            tls_ca=ca, all_workers=False, shared_memory=False, direct=False, timeout_s=_TIMEOUT_S
                        ),
                    )
                )
            ),
        }
        for kind in kinds:
            opened.enter_context(load._caller(kind, callers[kind]()))
        yield load


def _channel(address: str, ca: Path) -> grpc.Channel:
    return grpc.secure_channel(
        address,
        grpc.ssl_channel_credentials(ca.read_bytes()),
        # A connection of its own for each caller.
        options=[("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 500)],
    )


def _unary(channel: grpc.Channel) -> Callable[[], Array]:
    predict, label, dout = (
        pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[_ELEMENTS], data=operand.tobytes())
        for operand in (_PREDICT, _LABEL, _DOUT)
    )
    request = pb.ComputeGradientRequest(predict=predict, label=label, dout=dout, reduction=pb.REDUCTION_SUM)
    stub = MseGradServiceStub(channel)
    return lambda: np.frombuffer(stub.ComputeGradient(request, timeout=_TIMEOUT_S).y.data, np.float32)


def _open_inference(channel: grpc.Channel) -> Callable[[], Array]:
    request = oip.ModelInferRequest(model_name="mse_grad")
    request.parameters["reduction"].string_param = "sum"
    for name, operand in zip(("predict", "label", "dout"), (_PREDICT, _LABEL, _DOUT), strict=True):
        request.inputs.add(name=name, datatype="FP32", shape=[_ELEMENTS])
        request.raw_input_contents.append(operand.tobytes())
    stub = GRPCInferenceServiceStub(channel)
    return lambda: np.frombuffer(stub.ModelInfer(request, timeout=_TIMEOUT_S).raw_output_contents[0], np.float32)


def _sdk(client: MseGradClient) -> Callable[[], Array]:
    return lambda: client.compute(_PREDICT, _LABEL, _DOUT, "sum")
