"""The settings: one frozen class.

Flags override variables `MSE_GRAD_*`, which override a YAML file, which overrides the defaults; `sources` reads them.
The checks of settings against each other are in `checks`, and the memory that they allow is in `memory`.
"""

from __future__ import annotations

import os
from typing import Any, Literal, Self

from pydantic import Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from typing_extensions import override

from mse_grad_server.settings.address import ALL_DEVICES, parse_numbers
from mse_grad_server.settings.checks import faults_of
from mse_grad_server.settings.field_builders import bounded, default_mapped_bytes, default_threads, size
from mse_grad_server.settings.memory import MemoryBounds
from mse_grad_server.settings.network import NetworkSettings
from mse_grad_server.settings.value_types import Devices, Size, TextList, Users, size_text

__all__ = ["ENVIRONMENT_PREFIX", "Settings", "size_text"]

ENVIRONMENT_PREFIX = "MSE_GRAD_"

_KIB, _MIB, _GIB = 2**10, 2**20, 2**30
# gRPC stores message limits as int32, and its limit is twice ours (receive_limit_bytes).
_MAX_MESSAGE_BYTES = _GIB - 1
# On an NPU a block pays for two transfers and a launch, together about as long as a mebibyte takes on the bus. Three
# blocks are on the device at a time, and as many on their way keep it busy.
_NPU_CHUNK_BYTES = 2 * _MIB


class Settings(MemoryBounds, NetworkSettings, BaseSettings):
    """All settings. Sizes are bytes, or text such as "64MiB" or "64Mi"; times are seconds."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix=ENVIRONMENT_PREFIX, allow_inf_nan=False)

    backend: Literal["cpu", "ascend"] = Field(default="cpu", description="hardware that computes")
    fallback: Literal["none", "cpu"] = Field(
        default="none",
        description="backend that computes when the NPU of the backend ascend cannot; responses and a metric report "
        "its use",
    )
    cpu_kernel: Literal["auto", "avx512", "avx2", "neon", "portable", "numpy"] = Field(
        default="auto", description="kernel of the backend cpu; auto selects the fastest that this processor supports"
    )
    device: int = bounded(
        0, least=0, most=1023, text="number of the NPU among those that this process may use; backend ascend"
    )
    devices: Devices = Field(
        default="",
        examples=["NUMBERS"],
        description="NPUs to serve with one worker process each: '0-7', '0,2,5-7', or 'all' that this process may use; "
        "'' for one process on the NPU of --device",
    )
    workers: int = bounded(
        0, least=0, most=256, text="worker processes of the backend cpu; 0 for one process without a supervisor"
    )
    ready_when: Literal["any", "all"] = Field(
        default="any", description="whether any worker or all workers must be ready for the host to be ready"
    )
    worker_hang_s: float = bounded(
        60.0,
        least=2,
        most=3600,
        text="a worker that shows no sign of life for this long is killed and replaced; without a supervisor /live and "
        "/ready answer 503 then",
    )
    worker_restarts: int = bounded(
        10, least=0, most=1_000_000, text="failed starts in a row after which the supervisor gives up a worker"
    )
    device_slots: int = bounded(
        6,
        least=3,
        most=64,
        text="pieces of tensors (blocks) that may be on the NPU at a time; copies and kernels of different blocks "
        "overlap",
    )
    device_block_bytes: Size = size(
        2 * _MIB,
        least=64 * _KIB,
        most=_GIB,
        text="largest operand in one launch on the NPU; the server pins 4 x --device-slots times this size of host "
        "memory",
    )
    device_executors: int = bounded(
        256, least=8, most=65536, text="cached plans of kernel launches (element count, dtype, reduction, ...)"
    )
    device_timing_every: int = bounded(
        16,
        least=0,
        most=1_000_000,
        text="the NPU times the copies and the kernel of every Nth block; 0 disables this; the metrics then report one "
        "phase per block",
    )
    device_timeout_s: float = bounded(
        10.0, above=0, most=3600, text="a block that takes longer than this counts as stuck"
    )
    device_hang_s: float = bounded(
        60.0, above=0, most=3600, text="a call of the NPU's runtime that takes longer than this ends the process"
    )
    ascend_runtime_folder: str = Field(
        default="", description="folder of libacl_rt.so and libnnopbase.so; '' to find it by the CANN environment"
    )
    ascend_op_library: str = Field(
        default="", description="path of the package's libcust_opapi.so; '' to find it by the CANN environment"
    )
    compute_threads: int = Field(
        default_factory=default_threads,
        ge=1,
        le=256,
        description="threads that compute gradients larger than --inline-bytes",
    )
    inline_bytes: Size = size(
        512 * _KIB,
        least=0,
        most=_GIB,
        text="largest gradient that the event loop computes itself; larger ones go to a thread. In shared memory the "
        "limit is 8 times as large while no other request is in flight",
    )
    max_unary_bytes: Size = size(
        64 * _MIB,
        least=_KIB,
        most=_MAX_MESSAGE_BYTES,
        text="largest message of ComputeGradient, ModelInfer and ModelStreamInfer",
    )
    max_unary_in_flight: int = bounded(
        8,
        least=1,
        most=65536,
        text="calls of ComputeGradient, ModelInfer and ModelStreamInfer at a time; each may hold twice the larger "
        "message limit",
    )
    max_small_calls: int = bounded(
        64,
        least=1,
        most=65536,
        text="calls of all other methods at a time, such as health; if all are taken, a call whose client is silent is "
        "ended",
    )
    max_small_message_bytes: Size = size(
        4 * _KIB,
        least=_KIB,
        most=_MIB,
        text="largest expanded message of these methods, such as a service's name",
    )
    max_expansion: int = bounded(
        32,
        least=1,
        most=1024,
        text="largest ratio of a message to its compressed size; expansion to 64KiB is always allowed",
    )
    max_watches: int = bounded(512, least=1, most=65536, text="open calls of Health/Watch at a time")
    max_stream_message_bytes: Size = size(
        16 * _MIB, least=64 * _KIB, most=_MAX_MESSAGE_BYTES, text="largest message of StreamGradients"
    )
    chunk_bytes: Size = size(
        512 * _KIB,
        least=_KIB,
        most=256 * _MIB,
        text="bytes of one operand in a chunk, which the server advises clients to send; for ascend 2MiB by default",
    )
    window_chunks: int = bounded(
        8, least=1, most=1024, text="unanswered chunks of one stream at which the server stops reading from it"
    )
    max_open_requests: int = bounded(1024, least=1, most=1_000_000, text="open requests of one stream at a time")
    max_streams: int = bounded(
        256,
        least=1,
        most=65536,
        text="open streams at a time; a client on this host counts once, with its packets; if all are taken, the "
        "server closes the stream that has been idle longest",
    )
    max_in_flight_bytes: Size = size(
        _GIB,
        least=_MIB,
        most=2**50,
        text="operand bytes of all accepted requests in messages, and as many in shared memory; a streamed request "
        "counts as one window at most",
    )
    shared_memory: bool = Field(
        default=True, description="share memory with clients on this host and compute in it without copies; Linux only"
    )
    shared_memory_users: Users = Field(
        default="",
        examples=["NUMBERS"],
        description="uids of the users that may share memory, e.g. '1000,1001'; '' for the server's own user",
    )
    shared_memory_bytes: Size = Field(
        default_factory=default_mapped_bytes,
        ge=_MIB,
        le=2**50,
        description="mapped memory of all clients; by default all workers together map half of the memory limit of the "
        "process, and each at most 16GiB",
    )
    shared_memory_stream_bytes: Size = size(4 * _GIB, least=_MIB, most=2**50, text="mapped memory of one stream")
    stall_timeout_s: float = bounded(
        60.0,
        above=0,
        most=86400,
        text="a request fails if its caller sends no awaited data, or reads no answers, for this long",
    )
    give_way_s: float = bounded(
        1.0,
        above=0,
        most=86400,
        text="while others wait, a caller that is silent for this long loses its place or its bytes",
    )
    admission_wait_s: float = bounded(
        0.2,
        least=0,
        most=86400,
        text="longest wait of a request in shared memory while others take up --max-in-flight-bytes; 0 refuses it at "
        "once",
    )
    drain_timeout_s: float = bounded(
        30.0, least=0, most=86400, text="how long accepted requests may take after SIGTERM, SIGINT or SIGHUP"
    )
    keep_freed_memory: bool = Field(
        default=True,
        description="have glibc keep up to 256 MiB of freed memory for the next message, unless variables tune malloc",
    )
    grpc_experiments: TextList = Field(
        default="-event_engine_client,-event_engine_listener",
        pattern="^(-?[a-z0-9_]+(,-?[a-z0-9_]+)*)?$",
        description="experiments of gRPC's core, as in its variable GRPC_EXPERIMENTS; '' for its own defaults",
    )
    output_sample_every: int = Field(
        default=0, ge=0, description="inspect every Nth message for infinite, NaN and underflowed elements; 0: none"
    )
    tracing: bool = Field(
        default=False, description="make OpenTelemetry spans of traced requests; needs mse-grad[otel]"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="lowest level that is logged; debug has a line for every request"
    )
    log_format: Literal["json", "text"] = Field(default="json", description="json, or text for reading at a terminal")

    @model_validator(mode="wrap")
    @classmethod
    def _checked(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(values, dict) and values.get("backend") == "ascend":
            values = {"chunk_bytes": _NPU_CHUNK_BYTES, **values}
        settings = handler(values)
        if settings.is_supervised and "shared_memory_bytes" not in settings.model_fields_set:
            workers = len(settings.device_numbers) or settings.workers or 1  # the number of "all" is not known yet
            object.__setattr__(settings, "shared_memory_bytes", default_mapped_bytes(workers))
        faults = [
            InitErrorDetails(
                type=PydanticCustomError("value_error", message),
                loc=(name,),
                input=values.get(name, getattr(settings, name)) if isinstance(values, dict) else None,
            )
            for name, message in faults_of(settings)
        ]
        if faults:
            raise ValidationError.from_exception_data(cls.__name__, faults)
        return settings

    @property
    def device_name(self) -> str:
        """The hardware of one process: "cpu", or an NPU such as "npu:3"."""
        return "cpu" if self.backend == "cpu" else f"npu:{self.device}"

    @property
    def device_numbers(self) -> tuple[int, ...]:
        """The NPUs with a worker each, ascending; none without a supervisor, or while "all" is not resolved."""
        return () if self.devices == ALL_DEVICES else parse_numbers(self.devices)

    @property
    def are_devices_chosen(self) -> bool:
        """Whether `devices` names NPUs."""
        return self.devices == ALL_DEVICES or bool(self.device_numbers)

    @property
    def is_supervised(self) -> bool:
        """Whether the started process supervises workers instead of serving itself."""
        return self.are_devices_chosen or bool(self.workers)

    @property
    def shared_memory_uids(self) -> frozenset[int]:
        """The uids of the users that may share memory."""
        if not self.shared_memory_users:
            return frozenset((os.geteuid(),))
        return frozenset(int(number) for number in self.shared_memory_users.split(","))

    @classmethod
    @override
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)  # `sources` merges flags, variables and file
