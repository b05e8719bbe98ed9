"""Handler of ModelStreamInfer: gradients one after another over one RPC."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from mse_grad_server.backends.progress import late
from mse_grad_server.engine.streams import Drainable
from mse_grad_server.errors import Cancelled, ServerError, to_status
from mse_grad_server.rpc.admission.call import CURRENT_CALL
from mse_grad_server.rpc.admission.interruption import Interruption
from mse_grad_server.rpc.admission.reading import EOF, Reading
from mse_grad_server.rpc.open_inference.model import failed_response, stream_asked
from mse_grad_server.rpc.unary import Admission, WholeGradients

__all__ = ["ModelStreamInfer"]

_NAME = "ModelStreamInfer"


class ModelStreamInfer:
    """Handler of the method ModelStreamInfer; belongs to the event loop.

    An RPC has one of the places of unary calls. It computes one request at a time: the next message is read after the
    answer to the last one was written, so one stream holds no more memory than one unary call.

    Args:
        gradients: The computation.
    """

    def __init__(self, gradients: WholeGradients) -> None:
        self._gradients = gradients

    async def handle(self, _: Any, context: Any) -> None:
        """Serves one RPC."""
        gradients = self._gradients
        engine = gradients.engine
        engine.require_open()
        reading = gradients.take_place(context)
        stream = _Stream()
        call = CURRENT_CALL.get()
        call.streams.append(stream)
        engine.join(stream, counts_as_open=False)
        try:
            while (message := await self._next(reading, stream)) is not EOF:
                answer = await self._answer(bytes(message), context)
                del message
                with reading:
                    await reading.write(answer)
        finally:
            engine.leave(stream)

    async def _next(self, reading: Reading, stream: _Stream) -> Any:
        with stream.idle(), reading:
            return await self._gradients.read(reading, _NAME)

    async def _answer(self, message: bytes, context: Any) -> bytes:
        """Returns the answer to one message; a failure becomes one too, and is recorded."""
        gradients = self._gradients
        clock, recorder = gradients.clock, gradients.recorder.of(CURRENT_CALL.get().grant.name)
        began_s = clock.now()
        # Each message is a request of its own, with the id of the RPC.
        call = replace(CURRENT_CALL.get(), began_s=began_s, spec=None, streams=[])
        try:
            gradients.engine.require_ready()
            with Admission(gradients, call) as admission:
                answer = await admission.answer(stream_asked, message, context.time_remaining())
        except asyncio.CancelledError:
            is_late = context.time_remaining() == 0
            error = late(call.phase) if is_late else Cancelled("the caller went away")
            recorder.failed(_NAME, call.spec, error, seconds=clock.now() - began_s, origin=call.origin)
            raise
        except Exception as error:  # noqa: BLE001 - the error is recorded, and the stream goes on
            seconds = clock.now() - began_s
            recorder.failed(_NAME, call.spec, error, seconds=seconds, origin=call.origin)
            return failed_response(message, to_status(error, request_id=call.request_id).message)
        assert call.spec is not None
        now_s = clock.now()
        recorder.succeeded(
            _NAME,
            call.spec,
            seconds=now_s - began_s,
            origin=call.origin,
            margin_s=call.deadline_s - now_s,
        )
        return answer


class _Stream(Drainable):
    """One RPC, as draining and a removed token know it: it ends when it waits for its caller."""

    def __init__(self) -> None:
        self._reason: ServerError | None = None
        self._waiting: Interruption | None = None

    def idle(self) -> Interruption:
        """Returns a block that waits for the caller; raises the reason of the drain if there is one."""
        if self._reason is not None:
            raise self._reason
        self._waiting = Interruption()
        return self._waiting

    def drain(self, reason: ServerError) -> None:
        """Ends the RPC with `reason` once it has answered the message that it computes."""
        if self._reason is None:
            self._reason = reason
            if self._waiting is not None:
                self._waiting.set(reason)

    def cut_off(self) -> None:
        """Does nothing: the server cancels RPCs that are left when it ends."""

    def give_way(self) -> None:
        """Does nothing: the bytes of a message are reserved when it is whole."""
