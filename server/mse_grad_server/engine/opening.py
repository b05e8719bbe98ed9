"""The configured backend and its fallback: created from options, wrapped, opened and verified."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from structlog.typing import FilteringBoundLogger

from mse_grad_server.backends.ascend.backend import AscendBackend, AscendOptions
from mse_grad_server.backends.ascend.observer import Observer
from mse_grad_server.backends.base import Backend, ComputeAll
from mse_grad_server.backends.cpu import CpuBackend
from mse_grad_server.engine.verification import Verified, open_verified
from mse_grad_server.engine.wrappers import Fallback, OutputSample
from mse_grad_server.metrics.registry import Metrics
from mse_grad_server.process.exits import BackendUnavailable, VerificationFailed
from mse_grad_server.settings.model import Settings

__all__ = ["BackendOptions", "Backends"]


@dataclass(frozen=True)
class BackendOptions:
    """The choice of backends.

    Attributes:
        is_ascend: Whether an NPU computes, else the CPU.
        has_cpu_fallback: Whether the CPU computes when the NPU cannot.
        cpu_kernel: Kernel of the backend cpu.
        compute_threads: Number of threads of the backend cpu.
        output_sample_every: One call in this many is inspected; 0 for none.
        ascend: Options of the backend ascend.
    """

    is_ascend: bool
    has_cpu_fallback: bool
    cpu_kernel: str
    compute_threads: int
    output_sample_every: int
    ascend: AscendOptions

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Returns the choice in the settings."""
        return cls(
            is_ascend=settings.backend == "ascend",
            has_cpu_fallback=settings.fallback == "cpu",
            cpu_kernel=settings.cpu_kernel,
            compute_threads=settings.compute_threads,
            output_sample_every=settings.output_sample_every,
            ascend=AscendOptions.of(settings),
        )


class Backends:
    """The backend of a server and its optional fallback.

    Args:
        options: The choice of backends.
        metrics: Counts fallback gradients, inspected gradients and the time to open.
        observer: Receives every event of the NPU.
        primary: A backend in place of the chosen one, or None.

    Attributes:
        primary: The backend that computes.
        has_fallback: Whether another backend computes when it cannot.
        compute_all: Computes with the primary backend; any thread may call it.
        compute_fallback: Computes with the fallback, or None; any thread may call it.
    """

    def __init__(
        self, options: BackendOptions, metrics: Metrics, observer: Observer, *, primary: Backend | None = None
    ) -> None:
        self._metrics = metrics
        self._sample_every = options.output_sample_every
        self.primary = primary or _chosen(options, observer)
        self._fallback = Fallback(_cpu(options), metrics) if options.has_cpu_fallback else None
        self.has_fallback = self._fallback is not None
        self.compute_all = self._sampled(self.primary)
        self.compute_fallback = None if self._fallback is None else self._sampled(self._fallback)

    def open(self, log: FilteringBoundLogger) -> Verified:
        """Opens and verifies the fallback, then the primary backend, whose failure the fallback makes up for.

        The call blocks.

        Args:
            log: Receives a line if only the fallback could be opened.

        Raises:
            BackendUnavailable: No backend can be opened.
            VerificationFailed: A backend computes wrong gradients.
        """
        if self._fallback is None:
            return open_verified(self.primary, started=self._metrics.started)
        verified = open_verified(self._fallback.backend)
        try:
            return open_verified(self.primary, started=self._metrics.started)
        except (BackendUnavailable, VerificationFailed) as error:
            log.error("fallback", message=str(error), backend=self._fallback.backend.name)
            return verified

    def _sampled(self, backend: Backend | Fallback) -> ComputeAll:
        if not self._sample_every:
            return backend.compute_all
        return OutputSample(backend.compute_all, self._metrics, every=self._sample_every).compute_all


def _chosen(options: BackendOptions, observer: Observer) -> Backend:
    return AscendBackend(options.ascend, observer) if options.is_ascend else _cpu(options)


def _cpu(options: BackendOptions) -> CpuBackend:
    return CpuBackend(options.cpu_kernel, threads=options.compute_threads)
