"""Wiring of one server: the only module that constructs its parts."""

from __future__ import annotations

import asyncio
import os
import secrets
import time

from prometheus_client import Counter
from structlog.typing import FilteringBoundLogger

from mse_grad.methods import COMPUTE_GRADIENT, STREAM_GRADIENTS, full_name
from mse_grad.version import VERSION
from mse_grad_server.backends.ascend.backend import AscendBackend
from mse_grad_server.backends.base import Backend
from mse_grad_server.backends.cpu import CpuBackend
from mse_grad_server.backends.edges import Edges
from mse_grad_server.direct.listener import DirectListener
from mse_grad_server.engine.engine import Engine, EngineLimits
from mse_grad_server.engine.opening import BackendOptions, Backends
from mse_grad_server.metrics.device_events import DeviceEvents
from mse_grad_server.metrics.endpoint import MetricsEndpoint
from mse_grad_server.metrics.recorder import Recorder
from mse_grad_server.metrics.registry import Metrics
from mse_grad_server.metrics.tracing import Tracing
from mse_grad_server.process.clock import Clock, LoopClock
from mse_grad_server.process.exits import StartError
from mse_grad_server.process.state import State
from mse_grad_server.rpc.access import SCOPES
from mse_grad_server.rpc.admission.authentication import Authenticator
from mse_grad_server.rpc.admission.interceptor import CallInterceptor, CallLimits
from mse_grad_server.rpc.admission.rpc_tasks import watch_rpc_tasks
from mse_grad_server.rpc.common_port import CommonPort
from mse_grad_server.rpc.health import Health
from mse_grad_server.rpc.listener import Listener, ListenerOptions
from mse_grad_server.rpc.open_inference.descriptions import Descriptions
from mse_grad_server.rpc.open_inference.service import MODEL_INFER, MODEL_STREAM_INFER, OpenInference
from mse_grad_server.rpc.readiness import Readiness
from mse_grad_server.rpc.server_info import info_of, limits_of, load_of
from mse_grad_server.rpc.service import Service
from mse_grad_server.rpc.stream.handler import StreamGradients
from mse_grad_server.rpc.stream.limits import StreamLimits
from mse_grad_server.rpc.unary import NativeAsked, UnaryLimits, UnaryMethod, WholeGradients
from mse_grad_server.security.credentials import CredentialFiles, Credentials
from mse_grad_server.security.handshake import require_handshake
from mse_grad_server.settings.address import Address
from mse_grad_server.settings.model import Settings
from mse_grad_server.shared_memory.socket import SharedMemory
from mse_grad_server.workers.protocol import Endpoint
from mse_grad_server.workers.registration import Registration

__all__ = ["Server"]

# Time for clients that watch the health service to receive NOT_SERVING.
_FAREWELL_S = 0.5
# Time for clients to read their answers after the last one was written.
_DELIVERY_S = 5.0
# Time for the last calls of the backend after everything else has ended.
_LAST_CALL_S = 5.0
# Interval between checks of the device.
_DEVICE_CHECK_S = 1.0
# Time for requests to fail after their device is lost.
_LOST_DRAIN_S = 1.0


class Server:
    """One server in one event loop, which opens, drains and closes once. Create it inside the loop.

    Args:
        settings: The settings.
        log: The log.
        backend: A backend in place of the one in the settings, or None.
        clock: None for the clock of the loop.
        registration: Registration of the worker with its supervisor; None without a supervisor.
        lost_lines: Counter of lost log lines, which is served with the other metrics.

    Attributes:
        metrics: The metrics of the server.
        lost: Completes with the reason when the device is lost and there is no fallback, or gRPC has failed.
    """

    def __init__(
        self,
        settings: Settings,
        log: FilteringBoundLogger,
        *,
        backend: Backend | None = None,
        clock: Clock | None = None,
        registration: Registration | None = None,
        lost_lines: Counter | None = None,
    ) -> None:
        clock = clock or LoopClock()
        self.metrics = Metrics()
        if lost_lines is not None:
            self.metrics.registry.register(lost_lines)
        self._settings, self._log = settings, log
        self.lost: asyncio.Future[StartError] = asyncio.get_running_loop().create_future()
        device_events = DeviceEvents(
            self.metrics, log, on_available=self._device_is_available, on_lost=self._device_is_lost
        )
        self._backends = Backends(BackendOptions.of(settings), self.metrics, device_events, primary=backend)
        self._backend = self._backends.primary
        self._engine = Engine(
            self._backend,
            self.metrics,
            EngineLimits.of(settings),
            compute_all=self._backends.compute_all,
            fallback=self._backends.compute_fallback,
        )
        self._health = Health()
        self._credentials = Credentials(CredentialFiles.of(settings), log, prove=require_handshake)
        self._authenticator = Authenticator(
            self._credentials.tokens,
            SCOPES,
            clock,
            log,
            on_refusal=self.metrics.unauthenticated,
            drain_timeout_s=settings.drain_timeout_s,
        )
        self._registration, self._grace_s = registration, _FAREWELL_S
        self._edges: Edges | None = None
        self._metrics_endpoint = MetricsEndpoint.of(
            settings, self.metrics.registry, is_ready=lambda: self._engine.state is State.READY, log=log
        )
        instance_id = secrets.token_hex(16)
        self._shared_memory = SharedMemory.of(settings, self.metrics, clock, log, instance_id=instance_id)
        self._direct = DirectListener.of(
            settings, self.metrics, clock, log, instance_id=instance_id, certificates=self._credentials.certificates
        )
        recorder = Recorder(
            self.metrics,
            log,
            logs_every_request=settings.log_level == "debug",
            counts_kernel=not isinstance(self._backend, AscendBackend),
            tracing=Tracing.open() if settings.tracing else None,
        )
        gradients = WholeGradients(self._engine, recorder, clock, UnaryLimits.of(settings))
        self._service = Service(
            UnaryMethod(gradients, NativeAsked, COMPUTE_GRADIENT),
            StreamGradients(
                self._engine,
                recorder,
                clock,
                StreamLimits.of(settings),
                client_limits=limits_of(settings),
                instance_id=instance_id,
                lease_of=self._shared_memory.lease,
                offer_of=self._direct.offer,
            ),
            server_info=lambda: info_of(
                settings,
                self._backend,
                self._engine.state,
                edges=self._edges,
                endpoints=self._endpoints(),
                instance_id=instance_id,
                load=load_of(self._engine, self.metrics),
            ),
        )
        descriptions = Descriptions(self._engine, self.metrics, backend=self._backend)
        services = (self._service, OpenInference(gradients, descriptions))
        interceptor = self._interceptor = CallInterceptor(
            self._authenticator,
            recorder,
            clock,
            CallLimits.of(settings),
            name=instance_id[:8],
            gradient_methods={full_name(COMPUTE_GRADIENT), MODEL_INFER},
            stream_methods={full_name(STREAM_GRADIENTS), MODEL_STREAM_INFER},
            shares=self._engine.shares,
        )

        def listener(address: str, *, shares_port: bool) -> Listener:
            return Listener(
                Address.parse(address),
                services,
                self._health,
                interceptor,
                options=ListenerOptions.of(settings),
                certificates=self._credentials.certificates,
                shares_port=shares_port,
            )

        # The supervisor of a worker holds its port too, so that the next worker gets the same one.
        self._listener = listener(settings.listen, shares_port=registration is not None)
        common_port = None
        if registration is not None and registration.common_address:
            common_port = CommonPort(
                lambda: listener(registration.common_address, shares_port=True),
                drain_timeout_s=settings.drain_timeout_s,
            )
        self._readiness = Readiness(
            lambda: self._engine.state, self._health, log, common_port=common_port, registration=registration
        )

    @property
    def address(self) -> Address:
        """The address of the service; its port is known once the server is open."""
        return self._listener.address

    @property
    def metrics_address(self) -> Address | None:
        """The address of the metrics, or None."""
        return None if self._metrics_endpoint is None else self._metrics_endpoint.address

    async def open(self) -> None:
        """Listens, opens and verifies the backend, and then accepts requests.

        Raises:
            StartError: The server cannot start; it still has to be closed.
        """
        began_s = time.monotonic()
        self._credentials.open()
        self._credentials_changed()
        if self._metrics_endpoint is not None:
            self._metrics_endpoint.open()
        self._shared_memory.open()
        self._direct.open()
        await self._health.open()
        watch_rpc_tasks(self.lost)
        await self._listener.open()
        self.metrics.started("listen", time.monotonic() - began_s)
        addresses = {"listen": str(self.address), "direct_listen": str(self._direct.address or "none")}
        addresses["metrics_listen"] = str(self.metrics_address or "none")
        self._log.info("listening", **addresses)
        verified = await self._engine.run(lambda: self._backends.open(self._log))
        self._edges = verified.edges
        backend = self._backend
        if isinstance(backend, CpuBackend) and backend.why_numpy:
            self._log.warning("no_compiled_kernel", message=backend.why_numpy)
        tell = self._log.info if all(verified.edges) else self._log.warning
        tell("edges", overflow_mode=backend.overflow_mode.value, **verified.edges._asdict())
        build = {"version": VERSION, "backend": backend.name, "device": backend.device}
        build["kernel_hash"] = backend.kernel_hash
        self.metrics.built(**build)
        self._engine.set_ready(inline_bytes=min(self._settings.inline_bytes, backend.inline_bytes))
        await self._readiness.announce()
        self._log.info("ready", **addresses, **build, verified_gradients=verified.gradients, pid=os.getpid())

    async def drain(self) -> None:
        """Stops accepting requests, announces that, and waits up to the drain timeout for the accepted ones."""
        self._log.info("draining", in_flight_requests=self._engine.in_flight_requests)
        telling = await self._readiness.drain()
        timeout_s = _LOST_DRAIN_S if self.lost.done() else self._settings.drain_timeout_s
        if await self._engine.drain(timeout_s):
            self._log.info("drained")
            self._grace_s = max(_FAREWELL_S, min(_DELIVERY_S, timeout_s))
        else:
            self._log.warning("drain_timeout", unfinished_requests=self._engine.in_flight_requests)
        # A client that watches health and does not read must not block the end.
        await asyncio.wait([telling], timeout=_FAREWELL_S)
        telling.cancel()

    async def close(self) -> bool:
        """Ends the remaining calls and releases everything; returns False if a call to the backend does not end."""
        self._interceptor.end_calls()
        await asyncio.gather(self._readiness.close(self._grace_s), self._listener.close(self._grace_s))
        self._shared_memory.close()
        await self._direct.close()
        if self._metrics_endpoint is not None:
            await asyncio.to_thread(self._metrics_endpoint.close)
        computing = asyncio.ensure_future(asyncio.to_thread(self._engine.close))
        await asyncio.wait([computing], timeout=_LAST_CALL_S)
        if not computing.done():
            return False
        await asyncio.to_thread(self._backend.close)
        return True

    async def watch_device(self) -> None:
        """Checks the device until it is cancelled: while it recovers, no request arrives to notice its return."""
        while True:
            await asyncio.sleep(_DEVICE_CHECK_S)
            self._backend.look()

    async def watch_credentials(self) -> None:
        """Checks the files of certificates and tokens for changes until it is cancelled."""
        await self._credentials.keep(self._credentials_changed)

    def _credentials_changed(self) -> None:
        if self._credentials.certificates is not None:
            for file, unix_time_s in self._credentials.certificates.value.expiries_s.items():
                self.metrics.certificate_expires(file, unix_time_s)
        self.metrics.credentials_stale.set(int(self._credentials.are_stale))
        self._authenticator.tokens_changed()

    def _device_is_available(self, is_available: bool) -> None:
        if not self._backends.has_fallback:
            self._engine.set_available(is_available)
            if self._engine.state is not State.STARTING:
                self._readiness.announce_soon()

    def _endpoints(self) -> tuple[Endpoint, ...]:
        state = self._engine.state
        neighbours = () if self._registration is None else self._registration.endpoints(state)
        return neighbours or (Endpoint(str(self.address), self._settings.device_name, state),)

    def _device_is_lost(self, error: StartError) -> None:
        if not self._backends.has_fallback and not self.lost.done():
            self.lost.set_result(error)
