"""Rows of the tables: each path from a client to the kernel, and the servers that the rows need."""

from __future__ import annotations

import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["CERTIFICATE", "KEY", "ROWS", "SERVERS", "Key", "Row", "Server"]

CERTIFICATE, KEY = "BENCHMARK_CERTIFICATE", "BENCHMARK_KEY"
"""Variables with the paths of the PEM files of servers with TLS; the certificate is its own CA."""

# Name and transport; tables, figures and targets identify a row by them.
Key = tuple[str, str]

_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "MALLOC_TOP_PAD_": "67108864",
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
_EXPERIMENTS = {"GRPC_EXPERIMENTS": "-event_engine_client,-event_engine_listener"}
_SETTINGS = {**_MALLOC, **_EXPERIMENTS}
_GIB = 2**30

_WIRE_DTYPES = ("float32", "float16")
# On a wire bfloat16 and float16 are equally fast; their kernels differ.
_KERNEL_DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Server:
    """A process that serves.

    Attributes:
        module: Module of `adapters`; "" for the product's own server.
        environment: Virtual environment; "" for the product's.
        unix: Whether it listens on a Unix socket.
        tls: Whether it has TLS, with the certificate and key of `CERTIFICATE` and `KEY`.
        arguments: Arguments of its command, after those of `server_process.py`.
        variables: Its environment variables; "{host}" and "{port}" stand for the address that it shall listen on.
    """

    module: str = ""
    environment: str = ""
    unix: bool = False
    tls: bool = False
    arguments: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A client, and its name in the tables.

    Attributes:
        key: Name and transport.
        adapter: "module:function" of `adapters`, which connects.
        server: Name in `SERVERS`; "" if the row has no server.
        variables: Variables of the client's environment.
        items: Gradients in a call. A row with several is measured at 1K elements each, in float32.
        several_clients: Whether several clients at a time are measured as well.
        dtypes: Names of the dtypes that it computes.
        most_elements: Elements of the largest tensor that it takes; None for any.
    """

    key: Key
    adapter: str
    server: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    items: int = 1
    several_clients: bool = True
    dtypes: tuple[str, ...] = _WIRE_DTYPES
    most_elements: int | None = None

    @property
    def peer(self) -> str:
        """Module of the row's adapter; `--peers` selects rows by it."""
        return self.adapter.split(":")[0]

    @property
    def text(self) -> str:
        """Name and transport in one line."""
        return ", ".join(self.key)


SERVERS = {
    "ours": Server(),
    "ours tuned": Server(variables=_SETTINGS),
    "ours TLS": Server(tls=True),
    "ours unix": Server(unix=True),
    "ours unix tuned": Server(unix=True, variables=_SETTINGS),
    "flight": Server("flight", "flight"),
    "flight tuned": Server("flight", "flight", variables=_MALLOC),
    "flight tuned TLS": Server("flight", "flight", tls=True, variables=_MALLOC),
    "grpcio": Server("plain_grpcio"),
    "grpcio TLS": Server("plain_grpcio", tls=True),
    "kserve": Server(
        "kserve_model",
        "kserve",
        arguments=("--grpc_max_send_message_length=-1", "--grpc_max_receive_message_length=-1"),
    ),
    "mlserver": Server("mlserver_model", "mlserver"),
    "mosec": Server(
        "mosec_worker",
        "mosec",
        variables={"MOSEC_ADDRESS": "{host}", "MOSEC_PORT": "{port}", "MOSEC_MAX_REQUEST_SIZE": str(_GIB)},
    ),
    # Otherwise its worker loads another libpython of the same version number, if the machine has one.
    "pytriton": Server(
        "triton_model", "pytriton", variables={"LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR"))}
    ),
    "raw tcp": Server("raw_socket"),
    "raw unix": Server("raw_socket", unix=True),
}

ROWS = (
    Row(("compute", "same host, client.empty"), "ours:empty", "ours"),
    Row(("compute", "same host"), "ours:same_host", "ours"),
    Row(("compute", "same host, tuned"), "ours:same_host", "ours tuned", variables=_SETTINGS),
    Row(("compute", "unix, tuned"), "ours:wire", "ours unix tuned", variables=_SETTINGS),
    Row(("compute", "unix"), "ours:wire", "ours unix"),
    Row(("compute", "tcp, tuned"), "ours:wire", "ours tuned", variables=_SETTINGS),
    Row(("compute", "tcp"), "ours:wire", "ours"),
    Row(("compute", "tcp, gRPC's stream"), "ours:wire_of_grpc", "ours"),
    Row(("compute", "tcp, TLS"), "ours:wire", "ours TLS"),
    Row(("compute", "tcp, TLS, gRPC's stream"), "ours:wire_of_grpc", "ours TLS"),
    # The server's default limit on a message is 64 MiB.
    Row(("compute_unary", "tcp"), "ours:unary", "ours", most_elements=2**20),
    Row(("compute_many", "same host, 64 a call"), "ours:many", "ours", items=64, several_clients=False),
    Row(("compute_many", "tcp, 64 a call"), "ours:many_over_wire", "ours", items=64, several_clients=False),
    # Each of the 16 callers computes 16 gradients, so that the start of a call costs little.
    Row(("16 threads", "same host"), "ours:threads", "ours", items=256, several_clients=False),
    Row(("16 tasks", "same host"), "ours:tasks", "ours", items=256, several_clients=False),
    Row(("16 threads", "tcp"), "ours:threads_over_wire", "ours", items=256, several_clients=False),
    Row(("16 tasks", "tcp"), "ours:tasks_over_wire", "ours", items=256, several_clients=False),
    Row(("Arrow Flight", "stream"), "flight:stream", "flight"),
    Row(
        ("Arrow Flight", "stream of 128K, tuned"),
        "flight:stream_of_large_batches",
        "flight tuned",
        variables=_MALLOC,
    ),
    Row(
        ("Arrow Flight", "stream of 128K, tuned, TLS"),
        "flight:stream_of_large_batches",
        "flight tuned TLS",
        variables=_MALLOC,
    ),
    Row(("Arrow Flight", "a stream per call"), "flight:per_call", "flight"),
    Row(("mosec", "http"), "mosec_worker:connect", "mosec"),
    Row(("plain grpcio", "unary"), "plain_grpcio:connect", "grpcio"),
    Row(("plain grpcio", "unary, TLS"), "plain_grpcio:connect", "grpcio TLS"),
    Row(("kserve", "grpc"), "kserve_model:connect", "kserve"),
    Row(("mlserver", "grpc"), "mlserver_client:connect", "mlserver"),
    Row(("pytriton", "grpc"), "triton_model:over_grpc", "pytriton"),
    Row(("pytriton", "shared memory"), "triton_model:over_shared_memory", "pytriton"),
    Row(("raw socket", "unix"), "raw_socket:connect", "raw unix"),
    Row(("raw socket", "tcp"), "raw_socket:connect", "raw tcp"),
    Row(("native kernel", "in-process"), "in_process:kernel", several_clients=False),
    Row(
        ("native kernel", "in-process, new array"),
        "in_process:kernel_into_new_array",
        several_clients=False,
        dtypes=_KERNEL_DTYPES,
    ),
    Row(("NumPy", "in-process, new array"), "in_process:formula", several_clients=False, dtypes=_KERNEL_DTYPES),
    Row(("PyTorch", "in-process, new array"), "pytorch:new_array", several_clients=False, dtypes=_KERNEL_DTYPES),
    Row(("PyTorch", "in-process"), "pytorch:out_given", several_clients=False, dtypes=_KERNEL_DTYPES),
    Row(("memcpy", "in-process"), "in_process:copy", several_clients=False),
)
