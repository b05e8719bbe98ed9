"""The Ascend backend: one NPU, opened, used and closed."""

from __future__ import annotations

import os
import time
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field

from typing_extensions import override

from mse_grad.tensor import DType
from mse_grad_server.backends.ascend.acl.error_codes import AclError, WrongGradient
from mse_grad_server.backends.ascend.device.blocks import DTYPES
from mse_grad_server.backends.ascend.device.device import Device, DeviceOptions
from mse_grad_server.backends.ascend.device_thread import DeviceThread
from mse_grad_server.backends.ascend.observer import Observer
from mse_grad_server.backends.ascend.startup.diagnosis import (
    check_environment,
    check_permission,
    explain,
    load,
    set_environment,
)
from mse_grad_server.backends.ascend.startup.libraries import find_libraries, find_version, hash_kernels, prefer_package
from mse_grad_server.backends.ascend.transfer import transfer
from mse_grad_server.backends.base import Backend, Failure, Gradient
from mse_grad_server.backends.edges import OverflowMode
from mse_grad_server.errors import DeviceUnavailable
from mse_grad_server.process.exits import VerificationFailed
from mse_grad_server.settings.model import Settings

__all__ = ["AscendBackend", "AscendOptions"]

_PART_BYTES = 64 * 1024


@dataclass(frozen=True)
class AscendOptions:
    """Options of the backend.

    Attributes:
        runtime_folder: Folder of libacl_rt.so and libnnopbase.so; "" to find it by the environment.
        op_library: Path of libcust_opapi.so; "" to find it by the environment.
        device: The device to use, and how much of it.
        block_timeout_s: How long a block may take before its stream counts as stuck.
        hang_s: How long a call of ACL may take before the process counts as lost.
    """

    runtime_folder: str = ""
    op_library: str = ""
    device: DeviceOptions = field(default_factory=DeviceOptions)
    block_timeout_s: float = 10.0
    hang_s: float = 60.0

    @classmethod
    def of(cls, settings: Settings) -> AscendOptions:
        """Returns the options that the settings ask for."""
        return cls(
            settings.ascend_runtime_folder,
            settings.ascend_op_library,
            DeviceOptions(
                settings.device,
                settings.device_slots,
                settings.device_block_bytes,
                settings.device_executors,
                settings.device_timing_every,
            ),
            block_timeout_s=settings.device_timeout_s,
            hang_s=settings.device_hang_s,
        )


class AscendBackend(Backend):
    """Computes on one NPU. `compute` is thread-safe.

    Args:
        options: Options of the backend.
        observer: Receives every event of the device.
        environment: Variables of the process; `open` adds some for the libraries.
    """

    def __init__(
        self, options: AscendOptions, observer: Observer, *, environment: MutableMapping[str, str] = os.environ
    ) -> None:
        self._options = options
        self._observer = observer
        self._environment = environment
        self._thread: DeviceThread | None = None
        self._device = ""
        self._kernel_hash = ""

    @property
    @override
    def name(self) -> str:
        return "ascend"

    @property
    @override
    def device(self) -> str:
        """Name of the chip, e.g. "Ascend910B3"; "" unless open."""
        return self._device

    @property
    @override
    def kernel_hash(self) -> str:
        """Hexadecimal hash of the operator package's kernels; "" unless open."""
        return self._kernel_hash

    @property
    @override
    def dtypes(self) -> tuple[DType, ...]:
        """float32, float16 and bfloat16: a vector core has no float64."""
        return DTYPES

    @property
    @override
    def overflow_mode(self) -> OverflowMode:
        """The mode that the runtime reports for the device; unknown unless open."""
        return OverflowMode.UNKNOWN if self._thread is None else self._thread.overflow_mode

    @property
    @override
    def inline_bytes(self) -> int:
        """0: the event loop never waits for a device."""
        return 0

    @property
    @override
    def threads(self) -> int:
        """Twice the slots: one half of the threads fills slots while the other half waits for one."""
        return 2 * self._options.device.slots

    @property
    @override
    def part_bytes(self) -> int:
        """Small enough to answer while the next chunks are on the device, large beside the cost of a thread."""
        return _PART_BYTES

    @override
    def open(self) -> None:
        """Opens the device and checks a gradient of every kind on it; takes seconds on hardware.

        Raises:
            BackendUnavailable: The device cannot be used; the subclass and the message say why, and what to do.
            SettingsError: A variable of the environment makes CANN crash.
            VerificationFailed: The device computes wrong gradients.
        """
        options, began_s = self._options, time.monotonic()
        check_environment(self._environment)
        libraries = find_libraries(
            runtime_folder=options.runtime_folder, op_library=options.op_library, environment=self._environment
        )
        number = options.device.number
        check_permission(number, self._environment)
        set_environment(self._environment)
        prefer_package(libraries.opapi, self._environment)
        acl, opapi = load(libraries)
        self._observer.started("libraries", time.monotonic() - began_s)
        device = Device(acl, opapi, options.device)
        thread = DeviceThread(
            acl, device, self._observer, block_timeout_s=options.block_timeout_s, hang_s=options.hang_s
        )
        try:
            thread.start()
        except AclError as error:
            raise explain(error, device=number) from error
        except WrongGradient as error:
            raise VerificationFailed(f"{error}. Run the operator package's own test, and see npu-smi info") from error
        self._thread = thread
        self._device = thread.soc_name
        self._kernel_hash = hash_kernels(libraries)
        self._observer.opened(
            {
                "soc": self._device,
                "overflow_mode": thread.overflow_mode.value,
                "device": str(number),
                "op_library": str(opapi.path),
                "runtime_library": str(libraries.ascendcl),
                "cann_version": find_version(libraries.ascendcl),
                "kernel_hash": self._kernel_hash,
            }
        )

    @override
    def compute(self, gradient: Gradient) -> None:
        """Writes the gradient to its `y`.

        Raises:
            BackendError: The operator refused the gradient.
            DeviceUnavailable: The backend is not open; or the device is paused, is lost, or failed on this gradient
                twice.
            ServerBusy: The device has no memory left.
            DeadlineExceeded: The deadline passed.
        """
        failure = self.compute_all([gradient])
        if failure is not None:
            raise failure[1]

    @override
    def compute_all(self, gradients: Sequence[Gradient]) -> Failure | None:
        """Computes the gradients with as many of their blocks on the device as there are slots."""
        if self._thread is None:
            return 0, DeviceUnavailable("the backend ascend is not open")
        return transfer(self._thread, gradients, block_bytes=self._options.device.block_bytes, observer=self._observer)

    @override
    def look(self) -> None:
        """Tells the observer if a call to the device does not return."""
        if self._thread is not None:
            self._thread.check_watchdog()

    @override
    def close(self) -> None:
        """Waits for the blocks in flight, then closes the device; a second call does nothing."""
        if self._thread is not None:
            self._thread.stop()
        self._thread = None
        self._device = ""
        self._kernel_hash = ""
