"""The client dashboard: rejections, deadlines and transports, as callers see them."""

from __future__ import annotations

from typing import Any

from source.panels import Panel, Query, Row, dashboard
from source.queries import OURS, VARIABLES, marks, quantile, rate

__all__ = ["client_dashboard"]

_IN = 'direction="in"'


def client_dashboard() -> dict[str, Any]:
    """Returns the client dashboard."""
    answered = Row(
        "Errors and deadlines",
        (
            Panel(
                "Failed requests by code",
                "The caller must correct INVALID_ARGUMENT. CANCELLED is the caller's own decision.",
                "reqps",
                [Query(rate("mse_grad_requests_total", "code", 'code!="OK"'), "{{code}}")],
                is_stacked=True,
            ),
            Panel(
                "Rejections by reason",
                "SERVER_BUSY, TOO_MANY_OPEN_REQUESTS, NOT_READY, DRAINING and DEVICE_UNAVAILABLE carry a retry delay, "
                "which the SDK respects. TOKEN_MISSING and TOKEN_UNKNOWN are RPCs without a valid token.",
                "reqps",
                [
                    Query(rate("mse_grad_refusals_total", "reason"), "{{reason}}"),
                    Query(rate("mse_grad_unauthenticated_total", "reason"), "{{reason}}"),
                ],
                is_stacked=True,
            ),
            Panel(
                "Rejection ratio",
                "Rejections per request. A retry that is rejected again counts again.",
                "percentunit",
                [
                    Query(
                        f"{rate('mse_grad_refusals_total', 'instance')} / "
                        f"{rate('mse_grad_requests_total', 'instance')}",
                        "{{instance}}",
                    )
                ],
                warn=0.001,
                alarm=0.01,
            ),
            Panel(
                "Deadline exceeded and cancelled",
                "Requests whose deadline passed on the server, or that the caller cancelled.",
                "reqps",
                [Query(rate("mse_grad_requests_total", "code", 'code=~"DEADLINE_EXCEEDED|CANCELLED"'), "{{code}}")],
                columns=12,
            ),
            Panel(
                "Deadline margin",
                "Time left when the gradient was ready, for requests with a deadline that were answered in time. Near "
                "0, requests are about to miss their deadlines.",
                "s",
                [
                    Query(quantile(0.05, "mse_grad_deadline_margin_seconds", "instance"), "{{instance}} p5"),
                    Query(quantile(0.5, "mse_grad_deadline_margin_seconds", "instance"), "{{instance}} p50"),
                ],
                columns=12,
            ),
            Panel(
                "Retryable failures",
                "UNAVAILABLE and RESOURCE_EXHAUSTED. The SDK sends these requests again, to another worker if there is "
                "one.",
                "reqps",
                [
                    Query(
                        rate("mse_grad_requests_total", "method, code", 'code=~"UNAVAILABLE|RESOURCE_EXHAUSTED"'),
                        "{{method}} {{code}}",
                    )
                ],
                columns=24,
            ),
        ),
    )
    ways = Row(
        "Methods and transports",
        (
            Panel(
                "Requests by method",
                "The SDK uses StreamGradients; ComputeGradient is for other languages and small tools.",
                "reqps",
                [Query(rate("mse_grad_requests_total", "method"), "{{method}}")],
                is_stacked=True,
            ),
            Panel(
                "Throughput in elements by transport",
                "In shared memory, for clients on the same host, or in messages.",
                "cps",
                [
                    Query(rate("mse_grad_shared_memory_elements_total", "job"), "shared memory"),
                    Query(
                        f"{rate('mse_grad_elements_total', 'job')} - "
                        f"{rate('mse_grad_shared_memory_elements_total', 'job')}",
                        "messages",
                    ),
                ],
                is_stacked=True,
            ),
            Panel(
                "Throughput in bytes by transport",
                "stream, direct (the TCP connection beside a stream), packets, unary or shared_memory; operands in, "
                "gradients out. If clients of other hosts use stream alone, they cannot reach the port of "
                "--direct-listen.",
                "Bps",
                [
                    Query(
                        rate("mse_grad_transferred_bytes_total", "direction, transport"), "{{transport}} {{direction}}"
                    )
                ],
            ),
            Panel(
                "Rejected connections beside streams by reason",
                "DIRECT_DENIED and DIRECT_FULL: connections at the port of --direct-listen that showed no secret of an "
                "open stream, or came while too many had not; a port scan, or a load balancer that leads clients to "
                "another server. SHARED_MEMORY_...: rejected handovers of memory. Requests of the SDK take the stream.",
                "reqps",
                [
                    Query(rate("mse_grad_direct_refusals_total", "reason"), "{{reason}}"),
                    Query(rate("mse_grad_shared_memory_refusals_total", "reason"), "{{reason}}"),
                ],
                is_stacked=True,
            ),
            Panel(
                "Mapped client memory",
                "Shared memory of clients that the server has mapped, at most --shared-memory-bytes.",
                "bytes",
                [
                    Query(
                        f"sum by (instance, worker) (mse_grad_shared_memory_bytes{{{OURS}}})",
                        "{{instance}} {{worker}}",
                    )
                ],
            ),
            Panel(
                "Open streams by worker",
                "A client has one stream to each worker that it reaches. If only one worker has streams, clients "
                "cannot reach the other workers' ports.",
                "none",
                [Query(f"sum by (instance, worker) (mse_grad_open_streams{{{OURS}}})", "{{instance}} {{worker}}")],
            ),
            Panel(
                "Mean request size",
                "Bytes of operands per request. Latency grows with it.",
                "bytes",
                [
                    Query(
                        f"{rate('mse_grad_transferred_bytes_total', 'instance', _IN)} / "
                        f"{rate('mse_grad_requests_total', 'instance')}",
                        "{{instance}}",
                    )
                ],
                columns=24,
            ),
        ),
    )
    return dashboard(
        uid="mse-grad-client",
        title="mse-grad: client",
        text="Rejections, deadlines, retries and transports, as callers see them.",
        rows=(answered, ways),
        variables=VARIABLES,
        annotations=marks(),
    )
