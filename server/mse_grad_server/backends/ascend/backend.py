"""The backend for hosts with an Ascend NPU."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mse_grad.tensor import Array, DType
from mse_grad_server.backends.ascend.blocks import DTYPES
from mse_grad_server.backends.ascend.device import Device, DeviceOptions
from mse_grad_server.backends.ascend.device_thread import DeviceThread
from mse_grad_server.backends.ascend.faults import AclError
from mse_grad_server.backends.ascend.libraries import find_libraries, find_version, hash_kernels
from mse_grad_server.backends.ascend.observer import Observer
from mse_grad_server.backends.ascend.selfcheck import WrongGradient
from mse_grad_server.backends.ascend.starting import check_permission, explain, load
from mse_grad_server.backends.ascend.transfer import transfer
from mse_grad_server.backends.base import Failure, Gradient, GradientSpec
from mse_grad_server.config import Settings
from mse_grad_server.errors import DeviceUnavailable
from mse_grad_server.exits import VerificationFailed

__all__ = ["AscendBackend", "AscendOptions"]

_PART_BYTES = 64 * 1024


@dataclass(frozen=True)
class AscendOptions:
    """What the backend is told.

    Attributes:
        runtime_folder: Folder of libascendcl.so and libnnopbase.so; "" for what the environment says.
        op_library: Path of libcust_opapi.so; "" likewise.
        device: How much of which device.
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
        """Returns what the settings say."""
        return cls(
            settings.ascend_runtime_folder,
            settings.ascend_op_library,
            DeviceOptions(
                settings.device,
                settings.device_slots,
                settings.device_block_bytes,
                settings.device_executors,
                settings.device_timing,
            ),
            block_timeout_s=settings.device_timeout_s,
            hang_s=settings.device_hang_s,
        )


class AscendBackend:
    """Computes on one NPU; see `base.Backend`. `compute` may be called from any number of threads."""

    def __init__(
        self, options: AscendOptions, observer: Observer, *, environment: Mapping[str, str] = os.environ
    ) -> None:
        """Takes what `open` will look for.

        Args:
            options: What it is told.
            observer: Is told what happens to the device.
            environment: Variables of the process.
        """
        self._options = options
        self._observer = observer
        self._environment = environment
        self._thread: DeviceThread | None = None
        self._device = ""
        self._kernel_hash = ""

    @property
    def name(self) -> str:
        """Always "ascend"."""
        return "ascend"

    @property
    def device(self) -> str:
        """Name of the chip, e.g. "Ascend910B3"; "" while it is not open."""
        return self._device

    @property
    def kernel_hash(self) -> str:
        """Hexadecimal hash of the operator package's kernels; "" while it is not open."""
        return self._kernel_hash

    @property
    def dtypes(self) -> tuple[DType, ...]:
        """float32, float16 and bfloat16: a vector core has no float64."""
        return DTYPES

    @property
    def inline_bytes(self) -> int:
        """None: the event loop waits for no device."""
        return 0

    @property
    def threads(self) -> int:
        """As many as fill the slots while as many others wait for one."""
        return 2 * self._options.device.slots

    @property
    def part_bytes(self) -> int:
        """Small enough that answers flow while the next chunks are on the device, large beside the cost of a thread."""
        return _PART_BYTES

    def open(self) -> None:
        """Takes the device and checks a gradient of every kind on it; seconds on hardware.

        Raises:
            BackendUnavailable: A subclass of it says why the device cannot be used, and what to do.
            VerificationFailed: The device computes wrong.
        """
        options, began_s = self._options, time.monotonic()
        libraries = find_libraries(
            runtime_folder=options.runtime_folder, op_library=options.op_library, environment=self._environment
        )
        number = options.device.number
        check_permission(number, self._environment)
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
                "device": str(number),
                "op_library": str(opapi.path),
                "runtime_library": str(libraries.ascendcl),
                "cann_version": find_version(libraries),
                "kernel_hash": self._kernel_hash,
            }
        )

    def compute(
        self,
        spec: GradientSpec,
        predict: Array,
        label: Array,
        dout: Array,
        y: Array,
        *,
        deadline_s: float = math.inf,
    ) -> None:
        """Writes the gradient to `y`; see `base.Backend`.

        Raises:
            BackendError: The operator refused.
            DeviceUnavailable: It is not open, or the device rests, is lost, or failed under the gradient twice.
            ServerBusy: The device has no memory left.
            DeadlineExceeded: The deadline came.
        """
        failure = self.compute_all([Gradient(spec, predict, label, dout, y, deadline_s)])
        if failure is not None:
            raise failure[1]

    def compute_all(self, gradients: Sequence[Gradient]) -> Failure | None:
        """Computes the gradients with as many of their blocks on the device as there are slots; see `base.Backend`."""
        if self._thread is None:
            return 0, DeviceUnavailable("the backend ascend is not open")
        return transfer(self._thread, gradients, block_bytes=self._options.device.block_bytes, observer=self._observer)

    def look(self) -> None:
        """Tells the observer where a call to the device does not return."""
        if self._thread is not None:
            self._thread.look()

    def close(self) -> None:
        """Lets what is under way come through and gives the device back; a second call does nothing."""
        if self._thread is not None:
            self._thread.stop()
        self._thread = None
        self._device = ""
        self._kernel_hash = ""
