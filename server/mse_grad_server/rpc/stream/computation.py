"""Computation of the batches of one stream, in the event loop or in a thread, and the order of its answers."""

from __future__ import annotations

import asyncio

from mse_grad_server.engine.engine import Engine
from mse_grad_server.engine.shares import Share
from mse_grad_server.process.clock import Clock
from mse_grad_server.rpc.stream.batch import Batch
from mse_grad_server.rpc.stream.outbox import Outbox
from mse_grad_server.rpc.stream.requests import OpenRequests
from mse_grad_server.shared_memory.lease import Lease

__all__ = ["Computation"]

# Memory of a batch that waits for a thread, besides operands and gradients: its job and future, and each of its chunks.
# Without it, chunks of a few bytes, or in shared memory, would wait in any number.
_JOB_BYTES = 5 * 1024
_CHUNK_BYTES = 1024


class Computation:
    """Computes batches and puts answers and errors into the outbox; belongs to the event loop.

    Args:
        engine: Computes gradients.
        share: What the client of the stream holds.
        requests: Requests of the stream.
        outbox: Receives the answers.
        clock: Clock.
        lease: Lease of the client's shared memory; None if there is none.
    """

    def __init__(
        self, engine: Engine, share: Share, requests: OpenRequests, outbox: Outbox, clock: Clock, lease: Lease | None
    ) -> None:
        self._engine = engine
        self._share = share
        self._requests = requests
        self._outbox = outbox
        self._clock = clock
        self._lease = lease

    def answer(self, batch: Batch) -> None:
        """Computes a batch and puts its answer into the outbox."""
        shared_bytes = batch.in_shared.gradient_bytes
        gradient_bytes = batch.in_message.gradient_bytes + shared_bytes
        if self._engine.runs_inline(gradient_bytes, is_shared=shared_bytes > 0):
            answer = self._compute(batch)
            self._outbox.put(answer, batch.in_message.operand_bytes + len(answer))
            self._settle(batch)
            return
        for part in batch.parts(self._engine.part_bytes):
            self._answer_from_thread(part)

    def put_errors(self) -> None:
        """Puts the errors of requests into the outbox."""
        # Errors are queued behind answers that are still being computed, because an error also tells a shared-memory
        # client that the server has stopped writing to its memory.
        errors = self._requests.errors.take()
        if errors:
            self._outbox.put(errors, len(errors))

    def _answer_from_thread(self, batch: Batch) -> None:
        if self._lease is not None and batch.in_shared.gradient_elements:
            self._lease.begin_use()
        batch.enqueued(self._clock.now())
        computing = self._engine.run(
            lambda: self._compute(batch), share=self._share, deadline_s=batch.earliest_deadline_s
        )
        answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        computing.add_done_callback(lambda _: self._on_computed(batch, computing, answered))
        in_message = batch.in_message
        held_bytes = _JOB_BYTES + _CHUNK_BYTES * len(batch)
        self._outbox.put(answered, in_message.operand_bytes + in_message.gradient_bytes + held_bytes)

    def _compute(self, batch: Batch) -> bytes:
        return batch.compute(self._engine.compute_all, self._clock.now, fallback=self._engine.fallback)

    def _on_computed(self, batch: Batch, computing: asyncio.Future[bytes], answered: asyncio.Future[bytes]) -> None:
        if self._lease is not None and batch.in_shared.gradient_elements:
            self._lease.end_use()
        if answered.done() or computing.cancelled():  # the stream has ended meanwhile
            answered.cancel()
            return
        error = computing.exception()
        if error is not None:
            answered.set_exception(error)
            return
        answered.set_result(computing.result())
        self._settle(batch)

    def _settle(self, batch: Batch) -> None:
        self._requests.settle(batch, self._clock.now())
        self.put_errors()
