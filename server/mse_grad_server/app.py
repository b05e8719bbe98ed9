"""Puts the server together, runs it and ends it: the only place that constructs."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from typing import Any

from structlog.typing import FilteringBoundLogger

from mse_grad_server.access import Access
from mse_grad_server.address import Address
from mse_grad_server.announcer import Announcer
from mse_grad_server.backends.ascend.backend import AscendBackend, AscendOptions
from mse_grad_server.backends.base import Backend, ComputeAll
from mse_grad_server.backends.cpu import CpuBackend
from mse_grad_server.clock import Clock, LoopClock
from mse_grad_server.common_port import CommonPort
from mse_grad_server.config import Settings
from mse_grad_server.credentials import Credentials
from mse_grad_server.device_events import DeviceEvents
from mse_grad_server.engine import Engine
from mse_grad_server.exits import BackendUnavailable, ExitCode, StartError, VerificationFailed
from mse_grad_server.fallback import Fallback
from mse_grad_server.families import as_json
from mse_grad_server.health import Health
from mse_grad_server.info import info_of, version
from mse_grad_server.interceptors import CallInterceptor
from mse_grad_server.listener import Listener
from mse_grad_server.membership import Membership
from mse_grad_server.metrics import Metrics
from mse_grad_server.metrics_endpoint import MetricsEndpoint
from mse_grad_server.output_sample import OutputSample
from mse_grad_server.recorder import Recorder
from mse_grad_server.roster import Endpoint
from mse_grad_server.service import COMPUTE_GRADIENT, Service
from mse_grad_server.shared_memory import SharedMemory
from mse_grad_server.signals import on_stop_signals
from mse_grad_server.state import State
from mse_grad_server.verification import open_verified

__all__ = ["Server", "run"]

# How long watchers of the health service get to hear that the server ends.
_FAREWELL_S = 0.5
# Who hears GoAway often asks again at once, and is refused in our words for so long. Calls that come while gRPC shuts
# down end with a bare CANCELLED.
_LAST_REFUSALS_S = 0.2
# How long the last calls to the backend may take after everything else has ended.
_LAST_CALL_S = 5.0
# How often the device is looked after.
_LOOK_S = 1.0
# How long requests may take to hear that their device is lost.
_LOST_DRAIN_S = 1.0


class Server:
    """One server in one event loop: opened once, drained, closed.

    Attributes:
        metrics: What it counts.
        lost: Done with the reason when the device is lost and nothing computes in its place.
    """

    def __init__(
        self,
        settings: Settings,
        log: FilteringBoundLogger,
        *,
        backend: Backend | None = None,
        clock: Clock | None = None,
        membership: Membership | None = None,
    ) -> None:
        """Takes what it will run with; must be made inside of the event loop.

        Args:
            settings: What it is told.
            log: Where events go.
            backend: What computes; None for what the settings name.
            clock: None for the clock of the loop.
            membership: Its place among the workers of a host, or None where it is alone.
        """
        clock = clock or LoopClock()
        self.metrics = Metrics()
        self._settings = settings
        self._log = log
        self.lost: asyncio.Future[StartError] = asyncio.get_running_loop().create_future()
        self._backend = backend or self._make_backend()
        cpu = CpuBackend(settings.cpu_kernel, threads=settings.compute_threads) if settings.fallback == "cpu" else None
        self._fallback = None if cpu is None else Fallback(cpu, self.metrics)
        self._engine = Engine(
            self._backend,
            self.metrics,
            settings,
            compute_all=self._compute_all(self._backend),
            fallback=None if self._fallback is None else self._compute_all(self._fallback),
        )
        self._health = Health()
        self._credentials = Credentials(settings, log)
        self._access = Access(
            self._credentials.tokens,
            clock,
            log,
            on_refusal=self.metrics.unauthenticated,
            drain_timeout_s=settings.drain_timeout_s,
        )
        self._membership = membership
        self._metrics_endpoint = (
            None
            if settings.metrics_listen == "none"
            else MetricsEndpoint(
                self.metrics.registry,
                Address.parse(settings.metrics_listen),
                is_ready=lambda: self._engine.state is State.READY,
            )
        )
        instance_id = secrets.token_hex(16)
        self._shared_memory = SharedMemory(settings, self.metrics, clock, log, instance_id=instance_id)
        recorder = Recorder(
            self.metrics,
            log,
            logs_every_request=settings.log_level == "debug",
            counts_kernel=not isinstance(self._backend, AscendBackend),
        )
        self._service = Service(
            self._engine,
            recorder,
            clock,
            settings,
            instance_id=instance_id,
            lease=self._shared_memory.lease,
            server_info=lambda: info_of(
                settings, self._backend, self._engine.state, endpoints=self._endpoints(), instance_id=instance_id
            ),
        )
        interceptor = CallInterceptor(
            self._access, recorder, clock, name=instance_id[:8], gradient_method=COMPUTE_GRADIENT
        )

        def listener(address: str, *, shares_port: bool) -> Listener:
            return Listener(
                Address.parse(address),
                self._service,
                self._health,
                interceptor,
                settings,
                certificates=self._credentials.certificates,
                shares_port=shares_port,
            )

        # The supervisor holds the port of a worker, for the next one to have the same.
        self._listener = listener(settings.listen, shares_port=membership is not None)
        common_port = None
        if membership is not None and membership.common_address:
            common_port = CommonPort(
                lambda: listener(membership.common_address, shares_port=True),
                drain_timeout_s=settings.drain_timeout_s,
            )
        self._announcer = Announcer(
            lambda: self._engine.state, self._health, log, common_port=common_port, membership=membership
        )

    @property
    def address(self) -> Address:
        """Where it listens; the port is known once it is open."""
        return self._listener.address

    @property
    def metrics_address(self) -> Address | None:
        """Where the metrics are, or None."""
        return None if self._metrics_endpoint is None else self._metrics_endpoint.address

    async def open(self) -> None:
        """Listens, verifies the first gradients and takes requests from then on.

        Raises:
            StartError: It cannot; `close` is still to be called.
        """
        began_s = time.monotonic()
        self._credentials.open()
        self._credentials_changed()
        if self._metrics_endpoint is not None:
            self._metrics_endpoint.open()
        self._shared_memory.open()
        await self._health.open()
        await self._listener.open()
        self.metrics.started("listen", time.monotonic() - began_s)
        addresses = {"listen": str(self.address), "metrics_listen": str(self.metrics_address or "none")}
        self._log.info("listening", **addresses)
        gradients = await self._engine.run(self._open_backends)
        backend = self._backend
        if isinstance(backend, CpuBackend) and backend.why_numpy:
            self._log.warning("no_compiled_kernel", message=backend.why_numpy)
        self.metrics.built(
            version=version(), backend=backend.name, device=backend.device, kernel_hash=backend.kernel_hash
        )
        self._engine.set_ready(inline_bytes=min(self._settings.inline_bytes, backend.inline_bytes))
        await self._announcer.tell()
        self._log.info(
            "ready",
            **addresses,
            version=version(),
            backend=backend.name,
            device=backend.device,
            kernel_hash=backend.kernel_hash,
            verified_gradients=gradients,
            pid=os.getpid(),
        )

    async def drain(self) -> None:
        """Takes nothing new, tells everyone, and waits for what was accepted, within the drain timeout."""
        self._log.info("draining", in_flight_requests=self._engine.in_flight_requests)
        telling = await self._announcer.drain()
        timeout_s = _LOST_DRAIN_S if self.lost.done() else self._settings.drain_timeout_s
        if await self._engine.drain(timeout_s):
            self._log.info("drained")
        else:
            self._log.warning("drain_timeout", unfinished_requests=self._engine.in_flight_requests)
        # A watcher that does not read must not hold up the end.
        await asyncio.wait([telling], timeout=_FAREWELL_S)
        telling.cancel()

    async def close(self) -> bool:
        """Ends what is left and gives everything back; returns False where a call to the backend does not end."""
        await self._announcer.close(_FAREWELL_S)
        await self._listener.close(_FAREWELL_S)
        self._shared_memory.close()
        if self._metrics_endpoint is not None:
            await asyncio.to_thread(self._metrics_endpoint.close)
        computing = asyncio.ensure_future(asyncio.to_thread(self._engine.close))
        await asyncio.wait([computing], timeout=_LAST_CALL_S)
        if not computing.done():
            return False
        await asyncio.to_thread(self._backend.close)
        return True

    async def look_after_device(self) -> None:
        """Looks, until it is cancelled, whether the device comes back: who recovers gets no request that would tell."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self._backend.look()

    async def look_after_credentials(self) -> None:
        """Looks, until it is cancelled, whether the files of certificates and tokens changed."""
        await self._credentials.keep(self._credentials_changed)

    def _credentials_changed(self) -> None:
        if self._credentials.certificates is not None:
            for file, unix_time_s in self._credentials.certificates.value.expiries_s.items():
                self.metrics.certificate_expires(file, unix_time_s)
        self._access.tokens_changed()

    def _make_backend(self) -> Backend:
        settings = self._settings
        if settings.backend == "cpu":
            return CpuBackend(settings.cpu_kernel, threads=settings.compute_threads)
        events = DeviceEvents(
            self.metrics, self._log, on_available=self._device_is_available, on_lost=self._device_is_lost
        )
        return AscendBackend(AscendOptions.of(settings), events)

    def _compute_all(self, backend: Backend | Fallback) -> ComputeAll:
        every = self._settings.output_sample_every
        if not every:
            return backend.compute_all
        return OutputSample(backend.compute_all, self.metrics, every=every).compute_all

    def _device_is_available(self, is_available: bool) -> None:
        if self._fallback is not None:
            return
        self._engine.set_available(is_available)
        if self._engine.state is not State.STARTING:
            self._announcer.tell_soon()

    def _endpoints(self) -> tuple[Endpoint, ...]:
        state = self._engine.state
        neighbours = () if self._membership is None else self._membership.endpoints(state)
        return neighbours or (Endpoint(str(self.address), self._settings.device_name, state),)

    def _device_is_lost(self, error: StartError) -> None:
        if self._fallback is None and not self.lost.done():
            self.lost.set_result(error)

    def _open_backends(self) -> int:
        fallback = self._fallback
        if fallback is None:
            return open_verified(self._backend, started=self.metrics.started)
        gradients = open_verified(fallback.backend)
        try:
            return open_verified(self._backend, started=self.metrics.started)
        except (BackendUnavailable, VerificationFailed) as error:
            self._log.error("fallback", message=str(error), backend=fallback.backend.name)
            return gradients


async def run(settings: Settings, log: FilteringBoundLogger, membership: Membership | None = None) -> ExitCode:
    """Serves until SIGTERM or SIGINT, or until its device is lost, and then drains; a second signal ends it at once.

    A worker of a host also drains once its supervisor has ended, and a second signal does nothing there: whoever tells
    a whole group of processes to end tells the worker twice, and it is the supervisor that forces.

    Args:
        settings: What it is told.
        log: Where events go.
        membership: Its place among the workers of a host, or None where it is alone.

    Raises:
        StartError: The server cannot start.
    """
    stopping = asyncio.Event()
    is_alone = membership is None

    def alone() -> None:
        if not stopping.is_set():
            stopping.set()
            log.warning("supervisor_ended")

    on_stop_signals(log, stop=stopping.set, force=lambda: _end_process(ExitCode.FORCED) if is_alone else None)
    server = Server(settings, log, membership=membership)
    if membership is not None:
        attending = asyncio.ensure_future(membership.attend(lambda: as_json(server.metrics.registry)))
        attending.add_done_callback(lambda _: alone())
    looking = [asyncio.ensure_future(look()) for look in (server.look_after_device, server.look_after_credentials)]
    opening = asyncio.ensure_future(server.open())
    asked_to_stop = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({opening, asked_to_stop}, return_when=asyncio.FIRST_COMPLETED)
        if opening.done():
            await opening
            ends: list[asyncio.Future[Any]] = [asked_to_stop, server.lost]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            await server.drain()
            await asyncio.sleep(_LAST_REFUSALS_S)
        log.info("stopping")
    finally:
        stopping.set()  # where the start failed: this worker ends the link, not the supervisor
        for task in (opening, asked_to_stop, *looking):
            task.cancel()
        await asyncio.wait({opening, asked_to_stop, *looking})
        if not await server.close():
            log.error("backend_hangs", exit_code=int(ExitCode.FAILED))
            _end_process(ExitCode.FAILED)  # Python itself would wait for the thread
    return server.lost.result().exit_code if server.lost.done() else ExitCode.OK


def _end_process(code: ExitCode) -> None:
    os._exit(code)
