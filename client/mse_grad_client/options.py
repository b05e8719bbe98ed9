"""Options of the client; frozen, checked when made."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

__all__ = ["MAX_TIMEOUT_S", "ClientOptions", "RetryOptions"]

# About 30 years. Past 292 the deadlines of gRPC run over.
MAX_TIMEOUT_S = 1e9


@dataclass(frozen=True)
class RetryOptions:
    """How requests that got no answer are sent again. A gradient is a pure function: sending twice is always safe.

    Attributes:
        max_attempts: Times a request is tried at most, the first included; 1 switches retries off. Where a worker of
            several breaks off or refuses, the same try goes to one more of them at once.
        initial_backoff_s: Longest wait before the second attempt, in seconds; doubles with each attempt.
        max_backoff_s: Bound of that wait, in seconds.
    """

    max_attempts: int = 6
    initial_backoff_s: float = 0.1
    max_backoff_s: float = 2.0

    def __post_init__(self) -> None:
        """Raises ValueError naming the option that is out of range."""
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts is {self.max_attempts}; it must be at least 1")
        if not 0 < self.initial_backoff_s <= self.max_backoff_s:
            raise ValueError(
                f"initial_backoff_s is {self.initial_backoff_s}, max_backoff_s is {self.max_backoff_s}; "
                "they must be positive and in this order"
            )


@dataclass(frozen=True)
class ClientOptions:
    """Options of `MseGradClient`.

    Attributes:
        chunk_bytes: Bytes of each operand in a chunk; None takes what suits the server. Never past its message limit.
        window_chunks: Chunks of a request that may be unanswered at a time; None takes what suits the server.
        timeout_s: Time for a call that names none, in seconds; None waits as long as the connection lives.
        keepalive_s: Seconds of silence after which the connection is probed, so that a dead host is noticed.
        max_unary_bytes: Largest answer of `compute_unary`, in bytes. Finite: it also bounds what a compressed answer
            may expand to.
        all_workers: Whether requests go straight to every worker that the server names and this client reaches, each to
            the one with the fewest bytes in flight; False: all go through the address that was given.
        shared_memory: Whether a server on this host may map memory of this process, which spares copies; it then maps
            what `MseGradClient.empty` returns, and copies of large operands, and nothing else. Linux only.
        shared_from_bytes: Bytes of predict from which on arrays of `MseGradClient.empty` are computed where they lie;
            smaller ones are faster in a message.
        copied_from_bytes: Bytes of predict from which on other arrays are copied through shared memory; likewise.
        retry: How requests that got no answer are sent again.
        tls: Whether to use TLS and trust the CAs that come with gRPC; unix sockets never need it. Any other option of
            TLS implies it.
        tls_ca: PEM file of the CAs to trust instead, for a server with a certificate of a CA of one's own.
        tls_certificate: PEM file of this client's certificate, where the server asks for one (mTLS).
        tls_key: PEM file of its private key, without a password.
        tls_server_name: Name that the server's certificate has to have, where that is not the host of the address:
            behind a tunnel, for example.
        token: Token to show to the server.
        token_file: File that holds it; read for each stream and call, so that it may be exchanged.
        insecure_token: Whether a token may go to other machines without TLS, where everybody on the way reads it.
    """

    chunk_bytes: int | None = None
    window_chunks: int | None = None
    timeout_s: float | None = None
    keepalive_s: float = 30.0
    max_unary_bytes: int = 64 * 1024 * 1024
    all_workers: bool = True
    shared_memory: bool = True
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

    @property
    def uses_tls(self) -> bool:
        """Whether connections over a network are encrypted."""
        return bool(self.tls or self.tls_ca or self.tls_certificate or self.tls_server_name)

    def __post_init__(self) -> None:
        """Raises ValueError naming the option that is out of range."""
        if self.chunk_bytes is not None and self.chunk_bytes < 8:
            raise ValueError(f"chunk_bytes is {self.chunk_bytes}; it must be at least 8, one float64 element")
        if self.window_chunks is not None and self.window_chunks < 1:
            raise ValueError(f"window_chunks is {self.window_chunks}; it must be at least 1")
        if self.timeout_s is not None and not 0 < self.timeout_s <= MAX_TIMEOUT_S:
            raise ValueError(
                f"timeout_s is {self.timeout_s}; it must be positive and at most 1e9, or None for no limit"
            )
        if self.keepalive_s < 10:
            raise ValueError(
                f"keepalive_s is {self.keepalive_s}; gRPC servers refuse probes more often than every 10 s"
            )
        if self.shared_from_bytes < 0 or self.copied_from_bytes < 0:
            raise ValueError(
                f"shared_from_bytes is {self.shared_from_bytes}, copied_from_bytes is {self.copied_from_bytes}; "
                "they must not be negative"
            )
        if self.max_unary_bytes < 1024:
            raise ValueError(f"max_unary_bytes is {self.max_unary_bytes}; it must be at least 1024")
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("tls_certificate and tls_key go together: name both, or neither")
        if self.token and self.token_file:
            raise ValueError("token and token_file exclude each other: name one")
