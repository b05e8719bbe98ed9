"""Puts the server together, runs it and ends it: the only place that constructs."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from typing import Any

import grpc
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection
from structlog.typing import FilteringBoundLogger

from mse_grad_server.address import Address
from mse_grad_server.backends.ascend.backend import AscendBackend, AscendOptions
from mse_grad_server.backends.base import Backend
from mse_grad_server.backends.cpu import CpuBackend
from mse_grad_server.clock import Clock, LoopClock
from mse_grad_server.config import Settings
from mse_grad_server.device_events import DeviceEvents
from mse_grad_server.engine import Engine, State
from mse_grad_server.exits import BackendUnavailable, ExitCode, ListenError, StartError, VerificationFailed
from mse_grad_server.fallback import Fallback
from mse_grad_server.health import Health
from mse_grad_server.info import info_of, version
from mse_grad_server.interceptors import CallInterceptor
from mse_grad_server.metrics import Metrics, MetricsEndpoint
from mse_grad_server.recorder import Recorder
from mse_grad_server.service import COMPUTE_GRADIENT, SERVICE, Service
from mse_grad_server.unix_socket import UnixSocketFile
from mse_grad_server.verification import open_verified

__all__ = ["Server", "run"]

# How long watchers of the health service get to hear that the server ends.
_FAREWELL_S = 0.5
# Who hears GoAway often asks again at once, and is refused in our words for so long. Calls that come while gRPC shuts
# down end with a bare CANCELLED.
_LAST_REFUSALS_S = 0.2
# How long the last calls to the backend may take after everything else has ended.
_LAST_CALL_S = 5.0
# How long requests may take to hear that their device is lost.
_LOST_DRAIN_S = 1.0


class Server:
    """One server in one event loop: opened once, drained, closed.

    Attributes:
        address: Where it listens; the port is known once it is open.
        metrics_address: Where its metrics are, or None.
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
    ) -> None:
        """Takes what it will run with; must be made inside of the event loop.

        Args:
            settings: What it is told.
            log: Where events go.
            backend: What computes; None for what the settings name.
            clock: None for the clock of the loop.
        """
        clock = clock or LoopClock()
        self.address = Address.parse(settings.listen)
        self.metrics = Metrics()
        self._settings = settings
        self._log = log
        self.lost: asyncio.Future[StartError] = asyncio.get_running_loop().create_future()
        self._backend = backend or self._make_backend()
        cpu = CpuBackend(settings.cpu_kernel) if settings.fallback == "cpu" else None
        self._fallback = None if cpu is None else Fallback(cpu, self.metrics)
        self._engine = Engine(
            self._backend,
            self.metrics,
            settings,
            fallback=None if self._fallback is None else self._fallback.compute_all,
        )
        self._health = Health()
        self._telling: set[asyncio.Task[None]] = set()
        self._socket_file = UnixSocketFile(self.address.path) if self.address.path else None
        self._metrics_endpoint = (
            None
            if settings.metrics_listen == "none"
            else MetricsEndpoint(self.metrics, Address.parse(settings.metrics_listen))
        )
        instance_id = secrets.token_hex(16)
        recorder = Recorder(self.metrics, log, logs_every_request=settings.log_level == "debug")
        self._service = Service(
            self._engine,
            recorder,
            clock,
            settings,
            instance_id=instance_id,
            server_info=lambda: info_of(
                settings, self._backend, self._engine.state, address=str(self.address), instance_id=instance_id
            ),
        )
        interceptor = CallInterceptor(recorder, clock, name=instance_id[:8], gradient_method=COMPUTE_GRADIENT)
        self._grpc = grpc.aio.server(interceptors=[interceptor], options=_options(settings))

    @property
    def metrics_address(self) -> Address | None:
        """Where the metrics are, or None."""
        return None if self._metrics_endpoint is None else self._metrics_endpoint.address

    async def open(self) -> None:
        """Listens, verifies the first gradients and takes requests from then on.

        Raises:
            StartError: It cannot; `close` is still to be called.
        """
        if self._metrics_endpoint is not None:
            self._metrics_endpoint.open()
        await self._listen()
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
        await self._health.set_ready()
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
        telling = asyncio.ensure_future(self._health.drain())
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
        await self._grpc.stop(_FAREWELL_S)
        if self._socket_file is not None:
            self._socket_file.remove()
        if self._metrics_endpoint is not None:
            await asyncio.to_thread(self._metrics_endpoint.close)
        computing = asyncio.ensure_future(asyncio.to_thread(self._engine.close))
        await asyncio.wait([computing], timeout=_LAST_CALL_S)
        if not computing.done():
            return False
        await asyncio.to_thread(self._backend.close)
        return True

    async def _listen(self) -> None:
        self._grpc.add_generic_rpc_handlers((self._service.handler(),))
        await self._health.open(self._grpc)
        names = (SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._grpc)
        channelz.add_channelz_servicer(self._grpc)
        if self._socket_file is not None:
            self._socket_file.prepare()
        try:
            port = self._grpc.add_insecure_port(str(self.address))
        except RuntimeError as cause:
            raise ListenError(
                f"cannot listen on {self.address}: it is in use, or not of this machine; choose another --listen"
            ) from cause
        if self._socket_file is not None:
            self._socket_file.bound()
        else:
            self.address = self.address.with_port(port)
        await self._grpc.start()

    def _make_backend(self) -> Backend:
        settings = self._settings
        if settings.backend == "cpu":
            return CpuBackend(settings.cpu_kernel)
        events = DeviceEvents(
            self.metrics, self._log, on_available=self._device_is_available, on_lost=self._device_is_lost
        )
        return AscendBackend(AscendOptions.of(settings), events)

    def _device_is_available(self, is_available: bool) -> None:
        if self._fallback is not None:
            return
        self._engine.set_available(is_available)
        if self._engine.state is not State.STARTING:
            telling = asyncio.ensure_future(self._health.set_ready(is_available))
            self._telling.add(telling)
            telling.add_done_callback(self._telling.discard)

    def _device_is_lost(self, error: StartError) -> None:
        if self._fallback is None and not self.lost.done():
            self.lost.set_result(error)

    def _open_backends(self) -> int:
        fallback = self._fallback
        if fallback is None:
            return open_verified(self._backend)
        gradients = open_verified(fallback.backend)
        try:
            return open_verified(self._backend)
        except (BackendUnavailable, VerificationFailed) as error:
            self._log.error("fallback", message=str(error), backend=fallback.backend.name)
            return gradients


async def run(settings: Settings, log: FilteringBoundLogger) -> ExitCode:
    """Serves until SIGTERM or SIGINT, or until its device is lost, and then drains; a second signal ends it at once.

    Raises:
        StartError: The server cannot start.
    """
    stopping = asyncio.Event()
    _on_signals(stopping, log)
    server = Server(settings, log)
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
        opening.cancel()
        asked_to_stop.cancel()
        await asyncio.wait({opening, asked_to_stop})
        if not await server.close():
            log.error("backend_hangs", exit_code=int(ExitCode.FAILED))
            _end_process(ExitCode.FAILED)  # Python itself would wait for the thread
    return server.lost.result().exit_code if server.lost.done() else ExitCode.OK


def _on_signals(stopping: asyncio.Event, log: FilteringBoundLogger) -> None:
    loop = asyncio.get_running_loop()

    def asked(number: signal.Signals) -> None:
        if stopping.is_set():
            log.warning("forced", signal=number.name)
            _end_process(ExitCode.FORCED)
        log.info("signal", signal=number.name)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked, number)


def _end_process(code: ExitCode) -> None:
    os._exit(code)


def _options(settings: Settings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.receive_limit_bytes),
        ("grpc.max_send_message_length", -1),
        # Without this two servers would share a port, and calls would go to either.
        ("grpc.so_reuseport", 0),
        # Clients may ask whether the connection lives, also while no call is under way.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        # A client that vanished without a word is noticed, and what it held given back.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
