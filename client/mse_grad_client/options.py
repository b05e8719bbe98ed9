"""Options of the client: frozen, and checked when they are made."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any

import grpc
import numpy as np

from mse_grad_client.interceptor import ClientMetrics, Interceptor

__all__ = ["MAX_TIMEOUT_S", "ClientOptions", "RetryOptions", "is_real", "shown"]

# Longest timeout, about 30 years. Deadlines past 292 years overflow in gRPC.
MAX_TIMEOUT_S = 1e9
# gRPC keeps its own options in 32 bits.
_MOST_COUNT = 2**31 - 1
_MOST_BYTES = 2**63 - 1
_MOST_PER_S = 1e6


class _Options:
    """Equality, hash and representation by the fields.

    A dataclass would compile its own for each class, at every import.
    """

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash(tuple(self.__dict__.values()))

    def __repr__(self) -> str:
        known = fields(self)  # type: ignore[arg-type]  # a subclass is a dataclass
        shown = (f"{one.name}={getattr(self, one.name)!r}" for one in known if one.repr)
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True, eq=False, repr=False)
class RetryOptions(_Options):
    """Retries of failed requests. A gradient is a pure function, so sending a request twice is always safe.

    A call is tried until its `timeout_s` is over, so that it outlives the restart of a server. A call without a timeout
    is tried until `patience_s` has passed since its first failure. Then the error of the last attempt is raised.

    Attributes:
        max_attempts: Most attempts of a request, the first included; None for no bound but time, 1 switches retries
            off. If one of several workers fails a request, the same attempt goes to one more worker at once.
        initial_backoff_s: Longest wait before the second attempt, in seconds, on top of the time that the server asks
            for; it doubles with each attempt.
        max_backoff_s: Bound of that wait, in seconds.
        patience_s: Seconds for which a call without a timeout is retried after its first failure.
        max_per_s: Most retries per second of one client, over all its threads; further retries wait for their turn.
    """

    max_attempts: int | None = None
    initial_backoff_s: float = 0.1
    max_backoff_s: float = 2.0
    patience_s: float = 30.0
    max_per_s: float = 100.0

    def __post_init__(self) -> None:
        """Raises ValueError naming the option that is out of range."""
        if self.max_attempts is not None:
            _check_count(
                "max_attempts", self.max_attempts, least=1, most=_MOST_COUNT, otherwise=", or None for no bound"
            )
        _check_seconds("max_backoff_s", self.max_backoff_s, most=MAX_TIMEOUT_S)
        _check_seconds("initial_backoff_s", self.initial_backoff_s, most=MAX_TIMEOUT_S)
        if self.initial_backoff_s > self.max_backoff_s:
            raise ValueError(
                f"initial_backoff_s is {self.initial_backoff_s}, max_backoff_s is {self.max_backoff_s}; "
                "they must be positive and in this order"
            )
        _check_seconds("patience_s", self.patience_s, most=MAX_TIMEOUT_S)
        _check_seconds("max_per_s", self.max_per_s, most=_MOST_PER_S)


@dataclass(frozen=True, eq=False, repr=False)
class ClientOptions(_Options):
    """Options of `MseGradClient`.

    Attributes:
        chunk_bytes: Bytes of each operand in a chunk, bounded by the server's message limit; None uses the server's
            recommendation.
        window_chunks: Chunks of a request that may be unanswered at a time; None uses the server's recommendation.
        timeout_s: Seconds for a call without its own `timeout_s`; None waits as long as the connection lives.
        keepalive_s: Seconds of silence after which the client probes the connection, to detect a dead host.
        max_stream_age_s: Seconds, within 10%, after which the next request opens a new connection and stream; the old
            ones finish their requests. For servers behind one address, so that load reaches new ones. None: no limit.
        max_unary_bytes: Largest answer of `compute_unary`, in bytes; also bounds the size of a decompressed answer.
        all_workers: Whether requests go straight to the workers that the server names, each to the one with the fewest
            bytes in flight; the client skips workers it cannot reach. False: all go through the given address.
        shared_memory: Whether a server on this host may map memory of this process, which saves copies. It maps only
            the arrays of `MseGradClient.empty` and copies of large operands. Linux only.
        direct: Whether requests may take a TCP connection of their own beside gRPC's, over TLS if gRPC's has it. It is
            faster, and used if the server offers it and it can be reached. Not on Windows.
        shared_from_bytes: Bytes of predict from which arrays of `MseGradClient.empty` are used in place; smaller ones
            are faster in a message.
        copied_from_bytes: Bytes of predict from which other arrays are copied through shared memory; smaller ones are
            faster in a message.
        retry: Retries of failed requests.
        tls: Whether to use TLS and trust the CAs that come with gRPC; unix sockets never use it. Any other TLS option
            implies it.
        tls_ca: PEM file of the CAs to trust instead, for a server whose certificate a private CA signed.
        tls_certificate: PEM file of this client's certificate, for a server that requires one (mTLS).
        tls_key: PEM file of its private key, without a password.
        tls_server_name: Name that the server's certificate must have, if it differs from the host of the address, for
            example behind a tunnel.
        token: Bearer token to show to the server.
        token_file: File that holds the token; read for each stream and call, so that it can be replaced.
        insecure_token: Whether a token may go to other machines without TLS, readable on the way.
        user_agent: Name of your program, such as "trainer/1.2", before gRPC's own in the user agent of each RPC.
        channel_options: Arguments for gRPC's channels, such as ("grpc.http2.write_buffer_size", 2**20); they replace
            the SDK's own of the same name.
        interceptors: Your own code around each call; see Interceptor. A pickle of the client needs all of them to
            pickle.
        metrics: Receives the events of the client; see ClientMetrics.
        resolve: Looks up the host and port of "dns:///host:port" in place of the system; returns addresses such as
            "10.0.0.7:50051", or raises OSError.
        open_channel: Returns the channel to an address in place of gRPC's own, for tests; see testing.FakeServer.
    """

    chunk_bytes: int | None = None
    window_chunks: int | None = None
    timeout_s: float | None = None
    keepalive_s: float = 30.0
    max_stream_age_s: float | None = None
    max_unary_bytes: int = 64 * 1024 * 1024
    all_workers: bool = True
    shared_memory: bool = True
    direct: bool = True
    shared_from_bytes: int = 16 * 1024
    copied_from_bytes: int = 24 * 1024
    retry: RetryOptions = field(default_factory=RetryOptions)
    tls: bool = False
    tls_ca: str | os.PathLike[str] | None = None
    tls_certificate: str | os.PathLike[str] | None = None
    tls_key: str | os.PathLike[str] | None = None
    tls_server_name: str = ""
    token: str = field(default="", repr=False)
    token_file: str | os.PathLike[str] | None = None
    insecure_token: bool = False
    user_agent: str = ""
    channel_options: Sequence[tuple[str, int | str]] = ()
    interceptors: Sequence[Interceptor] = ()
    metrics: ClientMetrics | None = None
    resolve: Callable[[str, int], Sequence[str]] | None = field(default=None, repr=False)
    open_channel: Callable[[str], grpc.Channel] | None = field(default=None, repr=False)

    @property
    def uses_tls(self) -> bool:
        """Whether connections over a network are encrypted."""
        return bool(self.tls or self.tls_ca or self.tls_certificate or self.tls_server_name)

    def __post_init__(self) -> None:
        """Raises ValueError naming the option that is out of range."""
        if self.chunk_bytes is not None:  # at least one float64 element
            _check_count("chunk_bytes", self.chunk_bytes, least=8, most=_MOST_BYTES)
        if self.window_chunks is not None:
            _check_count("window_chunks", self.window_chunks, least=1, most=_MOST_COUNT)
        if self.timeout_s is not None:
            _check_seconds("timeout_s", self.timeout_s, most=MAX_TIMEOUT_S, otherwise=", or None for no limit")
        # gRPC servers refuse probes more often than every 10 s, and gRPC counts milliseconds in 32 bits.
        _check_seconds("keepalive_s", self.keepalive_s, least=10, most=_MOST_COUNT // 1000)
        if self.max_stream_age_s is not None:
            _check_seconds("max_stream_age_s", self.max_stream_age_s, most=MAX_TIMEOUT_S, otherwise=", or None")
        _check_count("shared_from_bytes", self.shared_from_bytes, least=0, most=_MOST_BYTES)
        _check_count("copied_from_bytes", self.copied_from_bytes, least=0, most=_MOST_BYTES)
        _check_count("max_unary_bytes", self.max_unary_bytes, least=1024, most=_MOST_COUNT)
        if not isinstance(self.retry, RetryOptions):
            raise ValueError(f"retry is {self.retry!r}; it must be RetryOptions")
        for name in ("all_workers", "shared_memory", "tls", "insecure_token"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be True or False")
        for name in ("tls_ca", "tls_certificate", "tls_key", "token_file"):
            _check_path(name, getattr(self, name))
        if not isinstance(self.tls_server_name, str):
            raise ValueError(f"tls_server_name is {self.tls_server_name!r}; it must be a name, or '' for none")
        if not isinstance(self.token, str):  # the message must not show it
            raise ValueError(f"token is a {type(self.token).__name__}; it must be a str, or '' for none")
        _check_own_code(self)
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("tls_certificate and tls_key go together: name both, or neither")
        if self.token and self.token_file:
            raise ValueError("token and token_file exclude each other: name one")


def is_real(value: object) -> bool:
    """Returns whether `value` is a real number. NumPy counts a time span as one, although it compares with none."""
    return isinstance(value, Real) and not isinstance(value, np.timedelta64)


def shown(value: object) -> str:
    """Returns `value` for a message, or the size of an integer that Python refuses to write out."""
    try:
        return repr(value)
    except ValueError:  # past sys.get_int_max_str_digits()
        return f"an integer of {value.bit_length()} bits" if isinstance(value, int) else f"a {type(value).__name__}"


def _check_count(name: str, value: Any, *, least: int, most: int, otherwise: str = "") -> None:
    is_number = isinstance(value, Integral) and not isinstance(value, (bool, np.timedelta64))
    if not (is_number and least <= value <= most):
        bounds = f"at least {least} and at most {most}{otherwise}"
        raise ValueError(f"{name} is {shown(value)}; it must be a whole number, {bounds}")


def _check_seconds(name: str, value: Any, *, least: float = 0, most: float, otherwise: str = "") -> None:
    is_number = is_real(value) and not isinstance(value, bool)
    if not (is_number and least <= value <= most and value > 0):
        bounds = f"at least {least}" if least else "positive"
        raise ValueError(f"{name} is {shown(value)}; it must be {bounds} and at most {most:.10g}{otherwise}")


def _check_own_code(options: Any) -> None:
    agent = options.user_agent
    if not isinstance(agent, str) or not (agent.isascii() and agent.isprintable()):
        raise ValueError(f"user_agent is {shown(agent)}; it must be printable ASCII, or '' for gRPC's own")
    object.__setattr__(options, "channel_options", _tuple("channel_options", options.channel_options))
    for argument in options.channel_options:
        is_pair = isinstance(argument, tuple) and len(argument) == 2
        if not (is_pair and isinstance(argument[0], str) and isinstance(argument[1], (int, str))):
            raise ValueError(f"channel_options has {shown(argument)}; each must be a name and an int or str")
    object.__setattr__(options, "interceptors", _tuple("interceptors", options.interceptors))
    for interceptor in options.interceptors:
        if not isinstance(interceptor, Interceptor):
            raise ValueError(
                f"interceptors has a {type(interceptor).__name__}; each must have a method intercept(call)"
            )
    if options.open_channel is not None and not callable(options.open_channel):
        raise ValueError(f"open_channel is {shown(options.open_channel)}; it must be a function of an address, or None")
    if options.resolve is not None and not callable(options.resolve):
        raise ValueError(f"resolve is {shown(options.resolve)}; it must be a function of host and port, or None")
    if options.metrics is not None and not isinstance(options.metrics, ClientMetrics):
        raise ValueError(f"metrics is a {type(options.metrics).__name__}; it must have the methods of ClientMetrics")


def _tuple(name: str, value: object) -> tuple[Any, ...]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise ValueError(f"{name} is {shown(value)}; it must be a sequence")
    return tuple(value)


def _check_path(name: str, value: object) -> None:
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if path is not None and (not isinstance(path, str) or "\0" in path):
        raise ValueError(f"{name} is {shown(value)}; it must be a path as str or os.PathLike[str], or None")
