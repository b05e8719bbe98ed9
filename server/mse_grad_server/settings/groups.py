"""Groups of the settings, for `--help`; docs/settings.md has the same headings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["GROUPS"]

GROUPS: Mapping[str, Sequence[str]] = {
    "Addresses": (
        "listen",
        "insecure_listen",
        "direct_listen",
        "socket_mode",
        "socket_group",
        "metrics_listen",
        "metrics_insecure_listen",
        "metrics_tls",
        "reflection",
        "channelz",
    ),
    "TLS and tokens": ("tls_certificate", "tls_key", "tls_client_ca", "token_file"),
    "Computing": ("backend", "cpu_kernel", "fallback", "compute_threads", "inline_bytes"),
    "Workers": ("devices", "workers", "ready_when", "worker_hang_s", "worker_restarts"),
    "NPU": (
        "device",
        "device_slots",
        "device_block_bytes",
        "device_executors",
        "device_timing_every",
        "device_timeout_s",
        "device_hang_s",
        "ascend_runtime_folder",
        "ascend_op_library",
    ),
    "Limits": (
        "max_in_flight_bytes",
        "max_streams",
        "max_open_requests",
        "max_stream_message_bytes",
        "chunk_bytes",
        "window_chunks",
        "max_unary_bytes",
        "max_unary_in_flight",
        "max_small_calls",
        "max_small_message_bytes",
        "max_expansion",
        "max_watches",
    ),
    "Time limits": (
        "drain_timeout_s",
        "stall_timeout_s",
        "give_way_s",
        "admission_wait_s",
        "max_stream_age_s",
        "max_connection_age_s",
    ),
    "Shared memory": ("shared_memory", "shared_memory_users", "shared_memory_bytes", "shared_memory_stream_bytes"),
    "Log and measurements": ("log_level", "log_format", "output_sample_every", "tracing"),
    "gRPC and malloc": ("grpc_experiments", "keep_freed_memory"),
}
"""Title -> names of the settings; each setting is in exactly one group."""
