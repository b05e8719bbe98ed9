"""Whole gradients, one message each: the handler of such methods, and the computation behind them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import Any, Protocol, Self

from mse_grad.codec import UnaryRequest, decode_unary_request, open_unary_response
from mse_grad.reasons import ContractError, Reason
from mse_grad.tensor import elements
from mse_grad_server.backends.base import ComputeAll, Gradient
from mse_grad_server.backends.progress import Phase, late, unwanted
from mse_grad_server.engine.engine import Engine
from mse_grad_server.errors import DeviceUnavailable
from mse_grad_server.metrics.recorder import Recorder
from mse_grad_server.process.clock import Clock
from mse_grad_server.rpc.admission.call import CURRENT_CALL, Call
from mse_grad_server.rpc.admission.places import Places
from mse_grad_server.rpc.admission.reading import EOF, Reading
from mse_grad_server.rpc.request_rules import Work, check_unary
from mse_grad_server.settings.model import Settings, size_text

__all__ = ["Admission", "Asked", "Form", "NativeAsked", "UnaryLimits", "UnaryMethod", "WholeGradients"]


class Asked(Protocol):
    """A decoded request for a whole gradient."""

    @property
    def request(self) -> UnaryRequest:
        """The operands, unchecked; views of the message."""

    def open_answer(self, size_bytes: int, falls_back: bool) -> tuple[bytes, memoryview]:
        """Returns the answer and a writable view of its elements; see `mse_grad.codec.open_unary_response`.

        Args:
            size_bytes: Bytes of the gradient, whose dtype and shape are those of predict.
            falls_back: Whether the fallback computes it.
        """


Form = Callable[[bytes], Asked]
"""Decoder of the messages of one method."""


class NativeAsked:
    """A `ComputeGradientRequest`."""

    __slots__ = ("request",)

    def __init__(self, message: bytes) -> None:
        self.request = decode_unary_request(message)

    def open_answer(self, size_bytes: int, falls_back: bool) -> tuple[bytes, memoryview]:
        """Returns the answer and a writable view of its elements."""
        predict = self.request.predict
        return open_unary_response(predict.dtype, predict.shape, size_bytes, falls_back)


@dataclass(frozen=True)
class UnaryLimits:
    """Limits of methods with whole gradients.

    Attributes:
        max_in_flight: Most RPCs at a time.
        max_message_bytes: Largest message.
        max_expansion: Most times its size that a compressed message may expand to.
        receive_limit_bytes: Largest message that gRPC receives.
        silence_s: Longest time for the message to arrive.
        give_way_s: Longest silence of a caller while others wait for its place.
    """

    max_in_flight: int
    max_message_bytes: int
    max_expansion: int
    receive_limit_bytes: int
    silence_s: float
    give_way_s: float

    @classmethod
    def of(cls, settings: Settings) -> UnaryLimits:
        """Returns the limits in `settings`."""
        return cls(
            max_in_flight=settings.max_unary_in_flight,
            max_message_bytes=int(settings.max_unary_bytes),
            max_expansion=settings.max_expansion,
            receive_limit_bytes=settings.receive_limit_bytes,
            silence_s=settings.stall_timeout_s,
            give_way_s=settings.give_way_s,
        )


class WholeGradients:
    """Computation of whole gradients, and the places of their RPCs, which all such methods share.

    Belongs to the event loop.

    Args:
        engine: Admits and computes requests.
        recorder: Counts and logs requests.
        clock: Clock.
        limits: Limits of the methods.

    Attributes:
        engine: Admits and computes requests.
        recorder: Counts and logs requests.
        clock: Clock.
        places: Places of the RPCs.
    """

    def __init__(self, engine: Engine, recorder: Recorder, clock: Clock, limits: UnaryLimits) -> None:
        self.places = Places(
            limits.max_in_flight,
            clock,
            noun="calls with whole gradients",
            patience_s=limits.give_way_s,
        )
        self.engine = engine
        self.recorder = recorder
        self.clock = clock
        self._limits = limits

    def take_place(self, context: Any) -> Reading:
        """Returns the reader of an RPC that has a place now, until gRPC has sent its last answer.

        Raises:
            ServerBusy: No place is free.
        """
        limits, call = self._limits, CURRENT_CALL.get()
        reading = Reading(
            context,
            self.clock,
            silence_s=limits.silence_s,
            max_expansion=limits.max_expansion,
            sending_s=limits.give_way_s,
            client=call.share.client,
        )
        self.places.take(reading)
        call.reading = reading
        # The answer is in memory until gRPC has sent it.
        call.at_end.append(lambda: self.places.leave(reading))
        return reading

    async def read(self, reading: Reading, method: str) -> Any:
        """Returns the next message of an RPC, or EOF; raises as `Reading.message` does."""
        most_bytes = self._limits.max_message_bytes
        return await reading.message(most_bytes=most_bytes, advice=_advice(method, most_bytes))

    def no_message(self) -> ContractError:
        """Returns the error of an RPC without a message.

        If the message was above gRPC's own limit, gRPC has ended the RPC already, and the error only reaches the log.
        """
        return ContractError(
            Reason.MESSAGE_MALFORMED,
            "message",
            f"the call has no message, or one above {self._limits.receive_limit_bytes} bytes",
        )

    async def answer(self, asked: Asked, work: Work, call: Call) -> bytes:
        """Returns the answer to an admitted request, whose deadline is known."""
        spec, dtype, request = work.spec, work.spec.dtype, asked.request
        deadline_s, timeline = call.deadline_s, call.origin.timeline
        gradient_bytes = work.count * dtype.itemsize_bytes
        encode_s = kernel_s = 0.0
        queued_s = None if self.engine.runs_inline(gradient_bytes) else self.clock.now()
        call.phase = Phase.QUEUED

        def enter(phase: Phase, now_s: float) -> None:
            if now_s >= deadline_s:
                raise late(call.phase)
            if not call.is_open:
                raise unwanted()
            call.phase = phase

        def answer_of(compute_all: ComputeAll, *, falls_back: bool) -> bytes:
            began_s = self.clock.now()
            enter(Phase.ENCODE, began_s)
            message, view = asked.open_answer(gradient_bytes, falls_back)
            encoded_s = self.clock.now()
            if not work.count:
                return message
            predict, label, dout = (
                elements(operand.data, dtype) for operand in (request.predict, request.label, request.dout)
            )
            enter(Phase.KERNEL, encoded_s)
            y = elements(view, dtype)
            failure = compute_all([Gradient(spec, predict, label, dout, y, deadline_s, timeline, call)])
            if failure is not None:
                raise failure[1]
            nonlocal encode_s, kernel_s
            computed_s = self.clock.now()
            encode_s, kernel_s = encoded_s - began_s, computed_s - encoded_s
            if timeline is not None:
                has_kernel = self.recorder.counts_kernel
                timeline.add_computation(queued_s, began_s, encoded_s, computed_s, has_kernel=has_kernel)
            return message

        def compute() -> bytes:
            fallback = self.engine.fallback
            try:
                return answer_of(self.engine.compute_all, falls_back=False)
            except DeviceUnavailable:
                if fallback is None:
                    raise
                return answer_of(fallback, falls_back=True)

        running = None if queued_s is None else self.engine.run(compute, share=call.share, deadline_s=deadline_s)
        answer = compute() if running is None else await running
        self.recorder.computed(work.count, encode_s=encode_s, kernel_s=kernel_s)
        operand_elements = work.operand_bytes // dtype.itemsize_bytes
        self.recorder.traffic.unary.count(operand_elements, work.count, work.operand_bytes, gradient_bytes)
        return answer


class Admission:
    """Admission of one request to the engine, entered with `with`; its bytes are known later.

    Args:
        gradients: The computation.
        call: The RPC.
    """

    __slots__ = ("_bytes", "_call", "_gradients")

    def __init__(self, gradients: WholeGradients, call: Call) -> None:
        self._gradients = gradients
        self._call = call
        self._bytes = 0

    def __enter__(self) -> Self:
        self._gradients.engine.admit_unary(self._call.share)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._call.is_open = False  # what a thread still computes for it is dropped
        self._gradients.engine.release(self._call.share, self._bytes)

    async def answer(self, form: Form, message: bytes, time_left_s: float | None) -> bytes:
        """Returns the answer to `message`, and notes its spec and deadline in the call."""
        gradients, call = self._gradients, self._call
        engine, clock, share = gradients.engine, gradients.clock, call.share
        came_s = clock.now()
        if share.takes_turns:
            await share.turn()
        arrived_s = clock.now()
        asked = form(message)
        work = check_unary(asked.request)
        call.spec = work.spec
        engine.charge(share, work.operand_bytes, work.spec.dtype)
        self._bytes = work.operand_bytes
        now_s = clock.now()
        gradients.recorder.phases.decode.observe_unlocked(now_s - arrived_s)
        call.deadline_s = math.inf if time_left_s is None else came_s + time_left_s
        return await gradients.answer(asked, work, call)


class UnaryMethod:
    """Handler of a method that takes one whole gradient in one message; belongs to the event loop.

    Args:
        gradients: The computation.
        form: Decoder of its messages.
        name: Name of the method.

    Attributes:
        places: Places of the RPCs, shared with the other methods of `gradients`.
    """

    def __init__(self, gradients: WholeGradients, form: Form, name: str) -> None:
        self.places = gradients.places
        self._gradients = gradients
        self._form = form
        self._name = name

    async def handle(self, _: Any, context: Any) -> bytes:
        """Answers one RPC."""
        gradients = self._gradients
        gradients.engine.require_ready()
        reading = gradients.take_place(context)
        with Admission(gradients, CURRENT_CALL.get()) as admission:
            with reading:
                message = await gradients.read(reading, self._name)
            if message is EOF:
                raise gradients.no_message()
            return await admission.answer(self._form, bytes(message), context.time_remaining())


@cache
def _advice(method: str, most_bytes: int) -> str:
    return (
        f"{method} takes at most {most_bytes} ({size_text(most_bytes)}). "
        "StreamGradients takes tensors of any size, in chunks"
    )
