"""The handlers of mse_grad.v1.MseGradService: bytes in, bytes out."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from itertools import count
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from mse_grad.frame import UnaryRequest, decode_unary_request, open_unary_response
from mse_grad.reasons import ContractError, Reason
from mse_grad.tensor import elements
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_server.backends.base import ComputeAll, Gradient
from mse_grad_server.call import CURRENT_CALL, Call
from mse_grad_server.check import Work, check_unary
from mse_grad_server.clock import Clock
from mse_grad_server.config import Settings, size_text
from mse_grad_server.engine import Engine
from mse_grad_server.errors import DeadlineExceeded, DeviceUnavailable, MessageTooLarge, to_status
from mse_grad_server.info import limits_of
from mse_grad_server.interruption import Interruption
from mse_grad_server.lease import Lease
from mse_grad_server.packets import Packets
from mse_grad_server.recorder import Recorder
from mse_grad_server.stream import EOF, Stream, StreamContext
from mse_grad_server.traffic import Tally

__all__ = ["COMPUTE_GRADIENT", "SERVICE", "Service"]

SERVICE = "mse_grad.v1.MseGradService"
COMPUTE_GRADIENT = f"/{SERVICE}/ComputeGradient"


class Service:
    """Decodes, checks, has it computed, encodes. Belongs to the event loop."""

    def __init__(
        self,
        engine: Engine,
        recorder: Recorder,
        clock: Clock,
        settings: Settings,
        *,
        instance_id: str,
        server_info: Callable[[], pb.GetServerInfoResponse],
        lease: Callable[[], Lease | None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._recorder = recorder
        self._clock = clock
        self._settings = settings
        self._name = instance_id[:8]
        self._server_info = server_info
        self._stream_numbers = count(1)
        self._lease = lease
        self._serving: set[asyncio.Task[None]] = set()
        self._opened = pb.StreamOpened(instance_id=instance_id, limits=limits_of(settings))

    def handler(self) -> grpc.GenericRpcHandler:
        """Returns what gRPC serves."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                # Registered as if a stream came in, which on the wire is the same: so the handler decides when the
                # message is read, and none is before there is a place for it.
                "ComputeGradient": grpc.stream_unary_rpc_method_handler(self.compute_gradient),
                "StreamGradients": grpc.stream_stream_rpc_method_handler(self.stream_gradients),
                "GetServerInfo": grpc.unary_unary_rpc_method_handler(self.get_server_info),
            },
        )

    async def compute_gradient(self, _: Any, context: Any) -> bytes:
        """Answers one ComputeGradient RPC."""
        engine = self._engine
        engine.admit_unary()
        charged_bytes = 0
        try:
            message = await self._read_message(context)
            if len(message) > self._settings.max_unary_bytes:
                raise MessageTooLarge(
                    f"the message has {len(message)} bytes; ComputeGradient takes at most "
                    f"{self._settings.max_unary_bytes} ({size_text(self._settings.max_unary_bytes)}). "
                    "StreamGradients takes tensors of any size, in chunks"
                )
            call, came_s = CURRENT_CALL.get(), self._clock.now()
            request = decode_unary_request(message)
            work = check_unary(request)
            call.spec = work.spec
            engine.charge(work.operand_bytes, work.spec.dtype)
            charged_bytes = work.operand_bytes
            engine.publish()
            now_s = self._clock.now()
            self._recorder.phases.decode.count(now_s - came_s)
            time_left_s = context.time_remaining()
            call.deadline_s = math.inf if time_left_s is None else now_s + time_left_s
            return await self._computed(request, work, call.deadline_s)
        finally:
            engine.release_unary(charged_bytes)
            engine.publish()

    async def stream_gradients(self, _: Any, context: Any) -> None:
        """Serves one StreamGradients RPC."""
        name = f"{self._name}-s{next(self._stream_numbers)}"
        # A client elsewhere could not reach the socket.
        lease = self._lease() if _is_on_this_host(context.peer()) else None
        call, traffic = CURRENT_CALL.get(), self._recorder.traffic
        if lease is None:
            await self._stream(call, context, name, traffic.stream, None).run(_opening(self._opened))
            return
        opened = pb.StreamOpened(shared_memory=lease.offer)
        opened.MergeFrom(self._opened)
        beside: list[asyncio.Task[None]] = []
        stream = self._stream(call, context, name, traffic.stream, lease)

        def serve(packets: Packets) -> None:
            if stream.is_draining:  # nobody would tell what begins now
                lease.hang_up()
            else:
                beside.append(self._begin_packets(call, packets, f"{name}p", lease))

        lease.serve = serve
        try:
            await stream.run(_opening(opened))
            if stream.is_draining and beside:  # it drains as well, and the engine sees to its end
                await asyncio.wait(beside)
        finally:
            lease.close()

    async def get_server_info(self, message: bytes, _: Any) -> bytes:
        """Answers one GetServerInfo RPC."""
        try:
            pb.GetServerInfoRequest.FromString(message)
        except DecodeError as cause:
            raise ContractError(
                Reason.MESSAGE_MALFORMED, "message", "the message is not a mse_grad.v1.GetServerInfoRequest"
            ) from cause
        return self._server_info().SerializeToString()

    def _stream(self, call: Call, context: StreamContext, name: str, tally: Tally, lease: Lease | None) -> Stream:
        stream = Stream(
            context, self._engine, self._recorder, self._clock, self._settings, name=name, tally=tally, lease=lease
        )
        call.streams.append(stream)
        return stream

    def _begin_packets(self, call: Call, packets: Packets, name: str, lease: Lease) -> asyncio.Task[None]:
        serving = asyncio.get_running_loop().create_task(self._serve_packets(call, packets, name, lease))
        self._serving.add(serving)  # the loop keeps no task alive
        serving.add_done_callback(self._serving.discard)
        return serving

    async def _serve_packets(self, call: Call, packets: Packets, name: str, lease: Lease) -> None:
        try:
            stream = self._stream(call, packets, name, self._recorder.traffic.packets, lease)
            packets.take_alone = lambda message: stream.take_alone(message, packets.write_now)
            await stream.run(_opening(self._opened))
        except Exception as error:  # noqa: BLE001 - as the interceptor does it for an RPC
            self._recorder.call_failed("StreamGradients", error, request_id=name)
            go_away = pb.GoAway(status=to_status(error, request_id=name))
            packets.write_now(pb.StreamGradientsResponse(go_away=go_away).SerializeToString())
        finally:
            lease.hang_up()

    async def _read_message(self, context: Any) -> bytes:
        silence_s = self._settings.stall_timeout_s
        stalled = DeadlineExceeded(f"the message did not come within {silence_s:g} s")
        with Interruption() as interruption:
            timer = self._clock.call_at(self._clock.now() + silence_s, lambda: interruption.set(stalled))
            try:
                message = await context.read()
            finally:
                timer.cancel()
        if message is EOF:
            # Above its own limit gRPC has ended the call already, and this reaches the log alone.
            raise ContractError(
                Reason.MESSAGE_MALFORMED,
                "message",
                f"the call has no message, or one above {self._settings.receive_limit_bytes} bytes",
            )
        return bytes(message)

    async def _computed(self, request: UnaryRequest, work: Work, deadline_s: float) -> bytes:
        spec, dtype = work.spec, work.spec.dtype
        encode_s = kernel_s = 0.0
        gradient_bytes = work.count * dtype.itemsize_bytes

        def answer_of(compute_all: ComputeAll, *, falls_back: bool) -> bytes:
            began_s = self._clock.now()
            if began_s >= deadline_s:
                raise DeadlineExceeded("the time that the caller gave ran out before the gradient was computed")
            message, view = open_unary_response(dtype.wire, request.predict.shape, gradient_bytes, falls_back)
            encoded_s = self._clock.now()
            if not work.count:
                return message
            predict, label, dout = (
                elements(operand.data, dtype) for operand in (request.predict, request.label, request.dout)
            )
            failure = compute_all([Gradient(spec, predict, label, dout, elements(view, dtype), deadline_s)])
            if failure is not None:
                raise failure[1]
            nonlocal encode_s, kernel_s
            encode_s, kernel_s = encoded_s - began_s, self._clock.now() - encoded_s
            return message

        def compute() -> bytes:
            fallback = self._engine.fallback
            try:
                return answer_of(self._engine.compute_all, falls_back=False)
            except DeviceUnavailable:
                if fallback is None:
                    raise
                return answer_of(fallback, falls_back=True)

        answer = compute() if self._engine.is_small(gradient_bytes) else await self._engine.run(compute)
        self._recorder.computed(work.count, encode_s=encode_s, kernel_s=kernel_s)
        operand_elements = work.operand_bytes // dtype.itemsize_bytes
        self._recorder.traffic.unary.count(operand_elements, work.count, work.operand_bytes, gradient_bytes)
        return answer


def _opening(opened: pb.StreamOpened) -> bytes:
    return pb.StreamGradientsResponse(opened=opened).SerializeToString()


def _is_on_this_host(peer: str) -> bool:
    """Whether the peer of a call, as gRPC writes it, came over loopback or a unix socket."""
    return peer.startswith(("unix:", "ipv4:127.", "ipv6:[::1]:", "ipv6:%5B::1%5D:"))
