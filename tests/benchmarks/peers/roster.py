"""Who is measured: one row for each way from a client to the kernel, and the servers that they need."""

from __future__ import annotations

import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["ROWS", "SERVERS", "Key", "Row", "Server"]

# Name and transport: what the table, the figures and the goals call a row.
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


@dataclass(frozen=True)
class Server:
    """A process that serves.

    Attributes:
        module: Of `ways`; "" for the product's own server.
        environment: Virtual environment; "" for the product's.
        unix: Whether it listens on a Unix socket.
        arguments: Of its command, after those of `serve.py`.
        variables: Of its environment; "{host}" and "{port}" stand for where it shall listen.
    """

    module: str = ""
    environment: str = ""
    unix: bool = False
    arguments: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A client, and what it is called.

    Attributes:
        key: Name and transport.
        way: "module:function" of `ways`, which connects.
        server: Name in `SERVERS`; "" where there is none.
        variables: Of the client's environment.
        items: Gradients in a call. Rows with several are measured at 1K elements each, in float32.
        several: Whether four clients at a time are measured as well.
    """

    key: Key
    way: str
    server: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    items: int = 1
    several: bool = True

    @property
    def peer(self) -> str:
        """The module of its way, by which rows are chosen."""
        return self.way.split(":")[0]

    @property
    def text(self) -> str:
        """Name and transport in one line."""
        return ", ".join(self.key)


SERVERS = {
    "ours": Server(),
    "ours tuned": Server(variables=_SETTINGS),
    "ours unix": Server(unix=True, variables=_SETTINGS),
    "flight": Server("flight", "flight"),
    "flight tuned": Server("flight", "flight", variables=_MALLOC),
    "grpcio": Server("plain_grpcio"),
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
    # Its worker would load another libpython of the same version number, if the machine has one.
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
    Row(("compute", "unix, tuned"), "ours:wire", "ours unix", variables=_SETTINGS),
    Row(("compute", "tcp, tuned"), "ours:wire", "ours tuned", variables=_SETTINGS),
    Row(("compute", "tcp"), "ours:wire", "ours"),
    Row(("compute_many", "same host, 64 a call"), "ours:many", "ours", items=64, several=False),
    Row(("compute_many", "tcp, 64 a call"), "ours:many_over_wire", "ours", items=64, several=False),
    Row(("Arrow Flight", "stream"), "flight:stream", "flight"),
    Row(
        ("Arrow Flight", "stream of 128K, tuned"),
        "flight:stream_of_large_batches",
        "flight tuned",
        variables=_MALLOC,
    ),
    Row(("Arrow Flight", "a stream per call"), "flight:per_call", "flight"),
    Row(("mosec", "http"), "mosec_worker:connect", "mosec"),
    Row(("plain grpcio", "unary"), "plain_grpcio:connect", "grpcio"),
    Row(("kserve", "grpc"), "kserve_model:connect", "kserve"),
    Row(("mlserver", "grpc"), "mlserver_client:connect", "mlserver"),
    Row(("pytriton", "grpc"), "triton_model:over_grpc", "pytriton"),
    Row(("pytriton", "shared memory"), "triton_model:over_shared_memory", "pytriton"),
    Row(("raw socket", "unix"), "raw_socket:connect", "raw unix"),
    Row(("raw socket", "tcp"), "raw_socket:connect", "raw tcp"),
    Row(("native kernel", "in-process"), "in_process:kernel", several=False),
    Row(("memcpy", "in-process"), "in_process:copy", several=False),
)
