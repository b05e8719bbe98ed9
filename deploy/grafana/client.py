"""The dashboard of what callers see."""

from __future__ import annotations

from typing import Any

from panels import Panel, Query, Row, dashboard
from queries import OURS, VARIABLES, marks, quantile, rate

__all__ = ["client_dashboard"]

_IN = 'direction="in"'


def client_dashboard() -> dict[str, Any]:
    """Returns the dashboard of what callers see."""
    answered = Row(
        "What callers are told",
        (
            Panel(
                "Requests that were not answered with a gradient",
                "By code. INVALID_ARGUMENT is for the caller to repair; CANCELLED is the caller's wish.",
                "reqps",
                [Query(rate("mse_grad_requests_total", "code", 'code!="OK"'), "{{code}}")],
                is_stacked=True,
            ),
            Panel(
                "Refusals by reason",
                "SERVER_BUSY, TOO_MANY_OPEN_REQUESTS, NOT_READY, DRAINING and DEVICE_UNAVAILABLE carry a time to retry "
                "after, which the SDK keeps to. TOKEN_MISSING and TOKEN_UNKNOWN are RPCs without a token that holds.",
                "reqps",
                [
                    Query(rate("mse_grad_refusals_total", "reason"), "{{reason}}"),
                    Query(rate("mse_grad_unauthenticated_total", "reason"), "{{reason}}"),
                ],
                is_stacked=True,
            ),
            Panel(
                "Refused, of all requests",
                "A refusal that is retried is counted again.",
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
                "Deadlines that ended, and calls cancelled",
                "Requests whose time ran out on the server, or whose caller gave up.",
                "reqps",
                [Query(rate("mse_grad_requests_total", "code", 'code=~"DEADLINE_EXCEEDED|CANCELLED"'), "{{code}}")],
                columns=12,
            ),
            Panel(
                "Time left when the gradient was ready",
                "Of requests with a deadline that were answered in time: the twentieth with the least, and the median. "
                "Near 0, deadlines are about to be missed.",
                "s",
                [
                    Query(quantile(0.05, "mse_grad_deadline_margin_seconds", "instance"), "{{instance}} least 5 %"),
                    Query(quantile(0.5, "mse_grad_deadline_margin_seconds", "instance"), "{{instance}} median"),
                ],
                columns=12,
            ),
            Panel(
                "Requests that a retry can help",
                "UNAVAILABLE and RESOURCE_EXHAUSTED: what the SDK sends again, to another worker where there is one.",
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
        "How they come",
        (
            Panel(
                "Requests by method",
                "The SDK streams; ComputeGradient is for other languages and small tools.",
                "reqps",
                [Query(rate("mse_grad_requests_total", "method"), "{{method}}")],
                is_stacked=True,
            ),
            Panel(
                "Elements by way",
                "In shared memory, for clients of the same host, or in messages.",
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
                "Bytes by transport",
                "stream, unary, shared_memory.",
                "Bps",
                [
                    Query(
                        rate("mse_grad_transferred_bytes_total", "direction, transport"), "{{transport}} {{direction}}"
                    )
                ],
            ),
            Panel(
                "Memory of clients that is mapped",
                "Bounded by --shared-memory-bytes.",
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
                "A client has one to each worker that it reaches. One worker alone with streams: the clients use the "
                "common port only, because its neighbours' ports cannot be reached.",
                "none",
                [Query(f"sum by (instance, worker) (mse_grad_open_streams{{{OURS}}})", "{{instance}} {{worker}}")],
            ),
            Panel(
                "Bytes of a request, mean",
                "Operands. When it grows, so does the time of a request.",
                "bytes",
                [
                    Query(
                        f"{rate('mse_grad_transferred_bytes_total', 'instance', _IN)} / "
                        f"{rate('mse_grad_requests_total', 'instance')}",
                        "{{instance}}",
                    )
                ],
            ),
        ),
    )
    return dashboard(
        uid="mse-grad-client",
        title="mse-grad: client's view",
        text="What callers see: refusals, deadlines, what they retry, and the way their tensors take.",
        rows=(answered, ways),
        variables=VARIABLES,
        annotations=marks(),
    )
