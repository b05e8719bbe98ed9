"""The settings: one frozen class.

Flags override variables `MSE_GRAD_*`, which override a YAML file, which overrides the defaults; `config_sources` reads
them. Every bound on memory stands here.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from mse_grad_server.address import Address
from mse_grad_server.device_numbers import parse_numbers

__all__ = ["ENVIRONMENT_PREFIX", "Settings", "size_text"]

ENVIRONMENT_PREFIX = "MSE_GRAD_"

_KIB, _MIB, _GIB = 2**10, 2**20, 2**30
# gRPC takes message limits as int32, and ours is doubled for it (receive_limit_bytes).
_MAX_MESSAGE_BYTES = _GIB - 1


def _checked_listen(text: str) -> str:
    Address.parse(text)
    return text


def _checked_metrics_listen(text: str) -> str:
    if text.lower() in ("", "none"):
        return "none"
    if Address.parse(text).path:
        raise ValueError("metrics are served over HTTP on 'host:port', or not at all: 'none'")
    return text


def _checked_users(users: object) -> str:
    text = str(users)  # YAML reads a single one as a number
    if text and not all(number.strip().isdecimal() for number in text.split(",")):
        raise ValueError("users are their numbers (uid), separated by commas, such as '1000,1001'")
    return text


def _default_threads() -> int:
    # More threads do not help: four already use up what the memory of a socket can carry.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, cores)


def _size(default_bytes: int, *, least: int, most: int, text: str) -> Any:
    return Field(default=ByteSize(default_bytes), ge=least, le=most, description=text)


class Settings(BaseSettings):
    """What the server is told. Sizes are bytes, or text such as "64MiB"; times are seconds."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix=ENVIRONMENT_PREFIX, allow_inf_nan=False)

    insecure_listen: bool = Field(
        default=False,
        description="allow addresses that other machines can reach without TLS: who is on the way reads and changes "
        "all that passes, tokens included",
    )
    tls_certificate: str = Field(
        default="",
        description="PEM file of the server's certificate and those between it and its CA; '' for no TLS",
    )
    tls_key: str = Field(
        default="", validate_default=True, description="PEM file of its private key, which has no password"
    )
    tls_client_ca: str = Field(
        default="", description="PEM file of the CAs of clients, who then need a certificate (mTLS); '' for any client"
    )
    token_file: str = Field(
        default="",
        description="file of the tokens of which callers need one, one a line, or its SHA-256 as 'sha256:<hex>'; "
        "'' for none",
    )
    listen: Annotated[str, AfterValidator(_checked_listen)] = Field(
        default="127.0.0.1:50051",
        description="address of the service: 'host:port' (port 0: a free one) or 'unix:/path'",
    )
    metrics_listen: Annotated[str, AfterValidator(_checked_metrics_listen)] = Field(
        default="127.0.0.1:9464", description="address of the metrics over HTTP: 'host:port', or 'none'"
    )
    backend: Literal["cpu", "ascend"] = Field(default="cpu", description="what computes")
    fallback: Literal["none", "cpu"] = Field(
        default="none",
        description="what computes where the NPU of the backend ascend cannot; answers and a metric say so",
    )
    cpu_kernel: Literal["auto", "avx512", "avx2", "neon", "portable", "numpy"] = Field(
        default="auto", description="kernel of the backend cpu; auto takes the fastest that runs here"
    )
    device: int = Field(
        default=0, ge=0, le=1023, description="number of the NPU, of those that this process may use; backend ascend"
    )
    devices: str = Field(
        default="",
        examples=["NUMBERS"],
        coerce_numbers_to_str=True,
        description="NPUs with one worker process each, such as '0-7' or '0,2,5-7'; '' for one process, on --device",
    )
    workers: int = Field(
        default=0, ge=0, le=256, description="worker processes of the backend cpu; 0 for one that has no supervisor"
    )
    ready_when: Literal["any", "all"] = Field(
        default="any", description="which workers have to be ready for the host to count as ready"
    )
    worker_hang_s: float = Field(
        default=60.0, ge=2, le=3600, description="how long a worker may be silent until it is killed and replaced"
    )
    worker_restarts: int = Field(
        default=10, ge=0, le=1_000_000, description="starts in a row after failures until a worker is given up"
    )
    device_slots: int = Field(
        default=6, ge=3, le=64, description="blocks on the NPU at a time; copies and kernels of different ones overlap"
    )
    device_block_bytes: ByteSize = _size(
        2 * _MIB,
        least=64 * _KIB,
        most=_GIB,
        text="largest operand of a block; device_slots x 4 of them are pinned",
    )
    device_executors: int = Field(
        default=256, ge=8, le=65536, description="kinds of launch (element count, dtype, reduction, ...) kept planned"
    )
    device_timing: bool = Field(
        default=True,
        description="time copies and kernel apart by events of the NPU; without it a block's way is one phase",
    )
    device_timeout_s: float = Field(
        default=10.0,
        gt=0,
        le=3600,
        description="how long a block may take until the NPU counts as stuck",
    )
    device_hang_s: float = Field(
        default=60.0, gt=0, le=3600, description="how long a call of the NPU's runtime may take until the process ends"
    )
    ascend_runtime_folder: str = Field(
        default="", description="folder of libascendcl.so and libnnopbase.so; '' for where the CANN environment says"
    )
    ascend_op_library: str = Field(
        default="", description="path of the operator package's libcust_opapi.so; '' likewise"
    )
    compute_threads: int = Field(
        default_factory=_default_threads, ge=1, le=256, description="threads for gradients above inline_bytes"
    )
    inline_bytes: ByteSize = _size(
        512 * _KIB,
        least=0,
        most=_GIB,
        text="largest gradient computed in the event loop, where no thread is waited for; eightfold for a lone one in "
        "shared memory",
    )
    max_unary_bytes: ByteSize = _size(
        64 * _MIB, least=_KIB, most=_MAX_MESSAGE_BYTES, text="largest message of ComputeGradient"
    )
    max_unary_in_flight: int = Field(
        default=8, ge=1, le=65536, description="calls of ComputeGradient at a time; each may hold the receive limit"
    )
    max_stream_message_bytes: ByteSize = _size(
        16 * _MIB, least=64 * _KIB, most=_MAX_MESSAGE_BYTES, text="largest message of StreamGradients"
    )
    chunk_bytes: ByteSize = _size(
        512 * _KIB,
        least=_KIB,
        most=256 * _MIB,
        text="bytes of one operand in a chunk, which clients are told to send; 2MiB unless told for ascend",
    )
    window_chunks: int = Field(
        default=8,
        ge=1,
        le=1024,
        description="chunks of one stream that may be unanswered before no more is read",
    )
    max_open_requests: int = Field(
        default=1024, ge=1, le=1_000_000, description="requests open at a time on one stream"
    )
    max_streams: int = Field(default=256, ge=1, le=65536, description="streams open at a time")
    max_in_flight_bytes: ByteSize = _size(
        _GIB,
        least=_MIB,
        most=2**50,
        text="operand bytes admitted at a time; a streamed request counts as one window at most",
    )
    shared_memory: bool = Field(
        default=True,
        description="map memory that clients on this host hand over, and compute in it without a copy; Linux",
    )
    shared_memory_users: Annotated[str, BeforeValidator(_checked_users)] = Field(
        default="",
        description="numbers of the users who may hand over memory, such as '1000,1001'; '' for our own",
    )
    shared_memory_bytes: ByteSize = _size(
        16 * _GIB, least=_MIB, most=2**50, text="clients' memory mapped at a time, over all streams"
    )
    shared_memory_stream_bytes: ByteSize = _size(
        4 * _GIB, least=_MIB, most=2**50, text="clients' memory mapped at a time for one stream"
    )
    stall_timeout_s: float = Field(
        default=60.0, gt=0, le=86400, description="how long a caller may neither send what is missing nor read answers"
    )
    drain_timeout_s: float = Field(
        default=30.0, ge=0, le=86400, description="how long accepted requests may take after SIGTERM or SIGINT"
    )
    keep_freed_memory: bool = Field(
        default=True,
        description="have glibc keep freed memory, up to 256 MiB, for the next message, unless variables tune malloc",
    )
    grpc_experiments: str = Field(
        default="-event_engine_client,-event_engine_listener",
        pattern="^(-?[a-z0-9_]+(,-?[a-z0-9_]+)*)?$",
        description="experiments of gRPC's core, as its own variable GRPC_EXPERIMENTS; '' leaves it as it comes",
    )
    output_sample_every: int = Field(
        default=0,
        ge=0,
        description="of so many messages, one has a gradient looked into for infinite, NaN and underflowed elements; "
        "0 for none",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="debug has one line for every request"
    )
    log_format: Literal["json", "text"] = Field(default="json", description="text is for people at a terminal")

    @model_validator(mode="before")
    @classmethod
    def _more_at_a_time_for_an_npu(cls, values: Any) -> Any:
        # A block pays two transfers and a launch, together about as long as a mebibyte takes on the bus. Three are on
        # the device at a time; as many again on their way keep it from waiting.
        if isinstance(values, dict) and values.get("backend") == "ascend":
            return {"chunk_bytes": 2 * _MIB, **values}
        return values

    @field_validator("tls_key")
    @classmethod
    def _key_has_a_certificate(cls, tls_key: str, info: ValidationInfo) -> str:
        if bool(tls_key) != bool(info.data.get("tls_certificate")):
            raise ValueError("--tls-certificate and --tls-key go together: name both, or neither")
        return tls_key

    @field_validator("tls_client_ca")
    @classmethod
    def _clients_see_a_certificate(cls, tls_client_ca: str, info: ValidationInfo) -> str:
        if tls_client_ca and not info.data.get("tls_certificate"):
            raise ValueError("it needs TLS: --tls-certificate and --tls-key as well")
        return tls_client_ca

    @field_validator("listen")
    @classmethod
    def _local_or_encrypted(cls, text: str, info: ValidationInfo) -> str:
        has_tls, address = bool(info.data.get("tls_certificate")), Address.parse(text)
        if has_tls and address.path:
            raise ValueError("a unix socket never leaves the machine and has no TLS; leave --tls-certificate out")
        if not (has_tls or address.is_local or info.data.get("insecure_listen")):
            raise ValueError(
                "other machines can reach it, without TLS; choose a loopback address, such as 127.0.0.1, or a unix "
                "path, give --tls-certificate and --tls-key, or allow it with --insecure-listen"
            )
        return text

    @field_validator("metrics_listen")
    @classmethod
    def _local_unless_allowed(cls, text: str, info: ValidationInfo) -> str:
        if text != "none" and not info.data.get("insecure_listen") and not Address.parse(text).is_local:
            raise ValueError(
                "other machines can reach it, and metrics have no TLS; choose a loopback address, such as 127.0.0.1, "
                "or allow it with --insecure-listen"
            )
        return text

    @field_validator("device")
    @classmethod
    def _device_is_an_npu(cls, device: int, info: ValidationInfo) -> int:
        if device and info.data.get("backend") == "cpu":
            raise ValueError("it is an NPU, of --backend ascend; the backend cpu has no device to choose")
        return device

    @field_validator("devices")
    @classmethod
    def _devices_are_npus(cls, devices: str, info: ValidationInfo) -> str:
        numbers = parse_numbers(devices)
        if numbers and info.data.get("backend") == "cpu":
            raise ValueError("devices are NPUs, of --backend ascend; for the backend cpu say --workers")
        if numbers and info.data.get("device"):
            raise ValueError("choose the NPUs with --devices alone, or one with --device")
        return devices

    @field_validator("workers")
    @classmethod
    def _workers_are_of_the_cpu(cls, workers: int, info: ValidationInfo) -> int:
        if workers and info.data.get("backend") == "ascend":
            raise ValueError("they are of --backend cpu; an NPU has one worker each: say which with --devices")
        return workers

    @field_validator("device_hang_s")
    @classmethod
    def _longer_than_a_block(cls, hang_s: float, info: ValidationInfo) -> float:
        timeout_s = info.data.get("device_timeout_s")
        if timeout_s is not None and hang_s < 2 * timeout_s:
            raise ValueError(
                f"it must be at least twice device_timeout_s, which is {timeout_s:g}: a call may wait so long"
            )
        return hang_s

    @field_validator("chunk_bytes")
    @classmethod
    def _chunk_fits_message(cls, chunk_bytes: ByteSize, info: ValidationInfo) -> ByteSize:
        message_bytes = info.data.get("max_stream_message_bytes")
        if message_bytes is not None and 4 * chunk_bytes > message_bytes:
            raise ValueError(
                f"it must be at most a quarter of max_stream_message_bytes, which is {size_text(message_bytes)}"
            )
        return chunk_bytes

    @field_validator("max_in_flight_bytes")
    @classmethod
    def _largest_request_fits(cls, in_flight_bytes: ByteSize, info: ValidationInfo) -> ByteSize:
        largest = max(info.data.get(name, 0) for name in ("max_unary_bytes", "max_stream_message_bytes"))
        if in_flight_bytes < largest:
            raise ValueError(
                f"it must be at least the largest message, {size_text(largest)}, or that is never admitted"
            )
        return in_flight_bytes

    @property
    def device_name(self) -> str:
        """What computes in one process: "cpu", or an NPU such as "npu:3"."""
        return "cpu" if self.backend == "cpu" else f"npu:{self.device}"

    @property
    def device_numbers(self) -> tuple[int, ...]:
        """The NPUs with a worker each, ascending; none where there is no supervisor."""
        return parse_numbers(self.devices)

    @property
    def is_supervised(self) -> bool:
        """Whether the process that was started starts workers, instead of serving itself."""
        return bool(self.device_numbers or self.workers)

    @property
    def shared_memory_uids(self) -> frozenset[int]:
        """The users who may hand over memory."""
        if not self.shared_memory_users:
            return frozenset((os.geteuid(),))
        return frozenset(int(number) for number in self.shared_memory_users.split(","))

    @property
    def receive_limit_bytes(self) -> int:
        """What gRPC receives at most in one message.

        gRPC ends a call with its own words above it, before it buffers the message. So it lies above our limits, and
        messages up to twice their size are answered with the limit and the way around.
        """
        return 2 * max(self.max_unary_bytes, self.max_stream_message_bytes)

    @property
    def unary_memory_bytes(self) -> int:
        """The most that messages of ComputeGradient hold at a time: nothing is read before a place is free."""
        return self.receive_limit_bytes * self.max_unary_in_flight

    @property
    def window_bytes(self) -> int:
        """Operands and gradients of one stream that may be unanswered before no more is read."""
        return 4 * self.chunk_bytes * self.window_chunks

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Takes values from the constructor alone; `config_sources` merges what flags, variables and file say."""
        return (init_settings,)


def size_text(size_bytes: int) -> str:
    """Returns a size as settings write it, e.g. "64MiB"; exact."""
    for unit, unit_bytes in (("GiB", _GIB), ("MiB", _MIB), ("KiB", _KIB)):
        if size_bytes and size_bytes % unit_bytes == 0:
            return f"{size_bytes // unit_bytes}{unit}"
    return str(size_bytes)
