"""Arrow Flight: DoExchange that sends record batches of three columns and receives batches of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.flight

from benchmarks.peers.adapters.kernel import Kernel
from benchmarks.peers.adapters.operands import Array, Call, Operands, Prepare
from benchmarks.peers.rows import CERTIFICATE, KEY

__all__ = ["DISTRIBUTION", "per_call", "serve", "stream", "stream_of_large_batches"]

DISTRIBUTION = "pyarrow"

_BATCH, _LARGE_BATCH = 2**16, 2**17
_OPERANDS = ("predict", "label", "dout")


class GradientServer(pa.flight.FlightServerBase):  # type: ignore[misc]
    """Answers each batch of operands with one batch of the gradient."""

    def __init__(self, location: str, **options: object) -> None:
        super().__init__(location, **options)
        self._kernel = Kernel()

    def do_exchange(self, context: object, descriptor: object, reader: Any, writer: Any) -> None:
        """Computes until the client has no further batches."""
        begun = False
        for chunk in reader:
            predict, label, dout = (column.to_numpy() for column in chunk.data.columns)
            y = pa.RecordBatch.from_arrays([pa.array(self._kernel.gradient(predict, label, dout))], names=["y"])
            if not begun:
                writer.begin(y.schema)
                begun = True
            writer.write_batch(y)


def serve(address: str) -> None:
    """Serves until the process ends."""
    if KEY not in os.environ:
        GradientServer(f"grpc://{address}").serve()
        return
    certificate, key = (Path(os.environ[name]).read_bytes() for name in (CERTIFICATE, KEY))
    GradientServer(f"grpc+tls://{address}", tls_certificates=[(certificate, key)]).serve()


def stream(address: str) -> Prepare:
    """One stream for all gradients of a dtype, in batches of 64K elements."""
    return _Connection(address, batch=_BATCH).over_one_stream


def stream_of_large_batches(address: str) -> Prepare:
    """The same in batches of 128K elements."""
    return _Connection(address, batch=_LARGE_BATCH).over_one_stream


def per_call(address: str) -> Prepare:
    """A stream for each gradient, in batches of 64K elements."""
    return _Connection(address, batch=_BATCH).over_own_streams


class _Connection:
    def __init__(self, address: str, *, batch: int) -> None:
        trusted = os.environ.get(CERTIFICATE)
        if trusted is None:
            self._client = pa.flight.connect(f"grpc://{address}")
        else:
            self._client = pa.flight.connect(f"grpc+tls://{address}", tls_root_certs=Path(trusted).read_bytes())
        self._batch = batch
        self._sender = ThreadPoolExecutor(max_workers=1)

    def over_one_stream(self, operands: Operands) -> Call:
        # A stream has one schema, and therefore one dtype.
        writer, reader = self._open(operands)
        return lambda: self._exchange(operands, writer, reader)

    def over_own_streams(self, operands: Operands) -> Call:
        def call() -> Array:
            writer, reader = self._open(operands)
            y = self._exchange(operands, writer, reader)
            writer.done_writing()
            writer.close()
            return y

        return call

    def _open(self, operands: Operands) -> tuple[pa.flight.FlightStreamWriter, pa.flight.FlightStreamReader]:
        writer, reader = self._client.do_exchange(pa.flight.FlightDescriptor.for_command(b"gradient"))
        dtype = pa.from_numpy_dtype(operands.predict.dtype)
        writer.begin(pa.schema([(name, dtype) for name in _OPERANDS]))
        return writer, reader

    def _batches(self, operands: Operands) -> Iterator[pa.RecordBatch]:
        for start in range(0, operands.predict.size, self._batch):
            part = slice(start, start + self._batch)
            columns = [pa.array(getattr(operands, name)[part]) for name in _OPERANDS]
            yield pa.RecordBatch.from_arrays(columns, names=_OPERANDS)

    def _exchange(
        self, operands: Operands, writer: pa.flight.FlightStreamWriter, reader: pa.flight.FlightStreamReader
    ) -> Array:
        def send() -> None:
            for batch in self._batches(operands):
                writer.write_batch(batch)

        elements = operands.predict.size
        if elements <= self._batch:
            send()
            y: Array = reader.read_chunk().data.column(0).to_numpy()
            return y
        # Both sides would wait for each other if one thread sent everything before it received.
        sending = self._sender.submit(send)
        y = np.empty_like(operands.predict)
        for start in range(0, elements, self._batch):
            y[start : start + self._batch] = reader.read_chunk().data.column(0).to_numpy()
        sending.result()
        return y
