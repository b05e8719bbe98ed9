"""Requests under way through shared memory."""

from __future__ import annotations

from typing_extensions import override

from mse_grad.reasons import Reason
from mse_grad_client.errors import MseGradError, Unavailable
from mse_grad_client.shared_memory.handover import Handover
from mse_grad_client.shared_memory.shared_exchange import SharedExchange
from mse_grad_client.stream.pending import Assignment, BesidePending
from mse_grad_client.stream.stream import Stream

__all__ = ["SharedPending"]

# Reasons with which the server rejects memory that it has not mapped, or has unmapped.
_NOT_MAPPED = (Reason.SEGMENT_UNKNOWN, Reason.SHARED_RANGE_INVALID)


class SharedPending(BesidePending):
    """A request whose tensors lie in shared memory.

    Args:
        stream: The stream that its messages take: that of the RPC, or of packets.
        exchange: The request on that stream.
        id: Id of the request on that stream.
        handover: The handover of the memory that it lies in.
        assignment: The request's claim on a worker.
    """

    def __init__(
        self, stream: Stream, exchange: SharedExchange, id: int, *, handover: Handover, assignment: Assignment
    ) -> None:
        super().__init__(stream, exchange, id, assignment=assignment)
        self._shared = exchange
        self._handover = handover

    @override
    def should_fall_back(self, error: MseGradError) -> bool:
        """Also disables the handover, unless this side has withdrawn the memory."""
        if self._shared.is_cut_off:
            return True
        has_ended = isinstance(error, Unavailable) and not self._stream.takes_requests
        if has_ended or error.reason in _NOT_MAPPED:
            self._handover.disable()
            return True
        return False

    @override
    async def _wait(self) -> None:
        stream, id, exchange = self._stream, self._id, self._shared
        try:
            await super()._wait()
            while not exchange.is_complete:
                try:
                    exchange.advance()
                    stream.follow(id, exchange)
                except MseGradError:
                    stream.abandon(id, exchange)
                    raise
                if not exchange.is_complete:
                    await super()._wait()
        except GeneratorExit:  # nobody awaits the gradient any longer, so nobody awaits this either
            exchange.revoke()
            raise
        except BaseException as error:
            if isinstance(error, MseGradError) or exchange.task is not None:
                await exchange.revoked()
            raise
        if exchange.is_cut_off:
            raise Unavailable("its memory was withdrawn", reason=Reason.SEGMENT_UNKNOWN)

    @override
    async def _abandon(self) -> None:
        await super()._abandon()
        await self._shared.revoked()
