"""The dashboard that an operator opens first."""

from __future__ import annotations

from typing import Any

from panels import Panel, Query, Row, dashboard
from queries import OURS, VARIABLES, grown, marks, quantile, rate

__all__ = ["service_dashboard"]

# Green is well, blue is somebody's wish, yellow passes by itself, orange and red want to be looked at.
_CODES = {
    "OK": "green",
    "CANCELLED": "blue",
    "INVALID_ARGUMENT": "purple",
    "RESOURCE_EXHAUSTED": "yellow",
    "DEADLINE_EXCEEDED": "orange",
    "UNAVAILABLE": "red",
    "INTERNAL": "dark-red",
}
_STATES = {"ready": "green", "starting": "blue", "draining": "yellow", "recovering": "orange", "gone": "red"}


def service_dashboard() -> dict[str, Any]:
    """Returns the dashboard that an operator opens first."""
    at_a_glance = Row(
        "At a glance",
        (
            Panel(
                "Workers that take requests",
                "Workers, or processes alone, that are ready. Red: nobody is. Alert MseGradNotReady.",
                "none",
                [Query(f"sum(mse_grad_ready{{{OURS}}})")],
                warn=1,
                is_low_bad=True,
                is_number=True,
                columns=4,
            ),
            Panel(
                "Workers that are missing",
                "Workers that take no requests. The others serve. Alert MseGradWorkerMissing.",
                "none",
                [Query(f'sum(1 - mse_grad_worker_state{{{OURS},state="ready"}}) or sum(1 - mse_grad_ready{{{OURS}}})')],
                warn=1,
                is_number=True,
                columns=4,
            ),
            Panel(
                "Requests",
                "Requests that ended, a second, whatever their code.",
                "reqps",
                [Query(rate("mse_grad_requests_total", "job"))],
                is_number=True,
                columns=4,
            ),
            Panel(
                "Errors",
                "INTERNAL, UNAVAILABLE and DEADLINE_EXCEEDED of all requests of the job, over 5 minutes. The objective "
                "is 0.1 %; red is where that budget burns 14.4 times too fast. Alerts MseGradErrorBudgetBurns...",
                "percentunit",
                [Query('job:mse_grad_errors:ratio_rate5m{job="mse-grad"}')],
                warn=0.001,
                alarm=0.0144,
                is_number=True,
                columns=4,
            ),
            Panel(
                "Refused as too many",
                "Of all requests, on the worst host. Clients retry. Alert MseGradSaturated.",
                "percentunit",
                [Query('max(instance:mse_grad_busy:ratio_rate5m{job="mse-grad",instance=~"$instance"})')],
                warn=0.001,
                alarm=0.01,
                is_number=True,
                columns=4,
            ),
            Panel(
                "Slowest 1 %",
                "p99 of the time of a request, all methods and hosts. Alert MseGradSlow.",
                "s",
                [
                    Query(
                        'max(instance_method:mse_grad_request_seconds:p99_rate5m{job="mse-grad",instance=~"$instance"})'
                    )
                ],
                warn=0.5,
                alarm=1,
                is_number=True,
                columns=4,
            ),
        ),
    )
    traffic = Row(
        "Traffic and errors",
        (
            Panel(
                "Requests by code",
                "gRPC codes of requests that ended. A stream carries many requests; each is counted.",
                "reqps",
                [Query(rate("mse_grad_requests_total", "code"), "{{code}}")],
                is_stacked=True,
                colors=_CODES,
            ),
            Panel(
                "Requests by dtype and reduction",
                "What is asked for. `unknown`: the request named none.",
                "reqps",
                [Query(rate("mse_grad_requests_total", "dtype, reduction"), "{{dtype}} {{reduction}}")],
                is_stacked=True,
            ),
            Panel(
                "Bytes in and out",
                "Operands that came and gradients that went, in messages or in shared memory.",
                "Bps",
                [Query(rate("mse_grad_transferred_bytes_total", "direction"), "{{direction}}")],
            ),
        ),
    )
    latency = Row(
        "Latency",
        (
            Panel(
                "Time of a request",
                "From its arrival to its last answer. It grows with the size of the tensors: compare with the bytes.",
                "s",
                [
                    Query(quantile(0.5, "mse_grad_request_seconds", "method"), "{{method}} p50"),
                    Query(quantile(0.99, "mse_grad_request_seconds", "method"), "{{method}} p99"),
                ],
                warn=0.5,
                alarm=1,
            ),
            Panel(
                "Mean time of a request by worker",
                "One worker that is slower than the others has a slow device, or the large tensors.",
                "s",
                [
                    Query(
                        f"{rate('mse_grad_request_seconds_sum', 'instance, worker')} / "
                        f"{rate('mse_grad_request_seconds_count', 'instance, worker')}",
                        "{{instance}} {{worker}}",
                    )
                ],
            ),
            Panel(
                "Elements by worker",
                "Elements of gradients, a second: how the work is spread.",
                "cps",
                [Query(rate("mse_grad_elements_total", "instance, worker"), "{{instance}} {{worker}}")],
            ),
            Panel(
                "Time by phase, p99",
                "Of a message, on an NPU of a block. queue: waiting for a thread, a slot, a turn; decode: reading and "
                "check; copy_in, copy_out: to the NPU and back; kernel: computing; encode: the answer.",
                "s",
                [Query(quantile(0.99, "mse_grad_phase_seconds", "phase"), "{{phase}}")],
                columns=12,
            ),
            Panel(
                "Time by phase, of each second",
                "Where the time goes: 2 means that two messages are in this phase on average. A queue above the kernel "
                "wants --compute-threads, a worker or a device more.",
                "none",
                [Query(rate("mse_grad_phase_seconds_sum", "phase"), "{{phase}}")],
                is_stacked=True,
                columns=12,
            ),
        ),
    )
    saturation = Row(
        "Saturation and workers",
        (
            Panel(
                "In flight",
                "Operand bytes that are admitted and not yet answered. What does not fit --max-in-flight-bytes is "
                "refused with SERVER_BUSY.",
                "bytes",
                [Query(f"sum by (instance, worker) (mse_grad_in_flight_bytes{{{OURS}}})", "{{instance}} {{worker}}")],
            ),
            Panel(
                "Requests in flight and streams",
                "Requests that are admitted and have not ended; streams of clients that are open.",
                "none",
                [
                    Query(f"sum by (instance) (mse_grad_in_flight_requests{{{OURS}}})", "{{instance}} requests"),
                    Query(f"sum by (instance) (mse_grad_open_streams{{{OURS}}})", "{{instance}} streams"),
                ],
            ),
            Panel(
                "Workers by state",
                "starting, ready, recovering (its device), draining, gone (given up). Processes alone are not here.",
                "none",
                [
                    Query(
                        f"sum by (state) (mse_grad_worker_state{{{OURS}}})",
                        "{{state}}",
                    )
                ],
                is_stacked=True,
                colors=_STATES,
            ),
            Panel(
                "Queue",
                "Messages, or parts of one, that wait for a thread to compute them.",
                "none",
                [Query(f"sum by (instance, worker) (mse_grad_queued_messages{{{OURS}}})", "{{instance}} {{worker}}")],
            ),
            Panel(
                "Last start, by step",
                "The slowest worker's.",
                "s",
                [Query(f"max by (step) (mse_grad_start_seconds{{{OURS}}})", "{{step}}")],
            ),
            Panel(
                "Gradients that are infinite, NaN or underflowed",
                "Of the elements that --output-sample-every looks into, where it is on. Inputs are the usual cause.",
                "percentunit",
                [
                    Query(
                        f"{rate('mse_grad_nonfinite_elements_total', 'instance')} / "
                        f"{rate('mse_grad_sampled_elements_total', 'instance')}",
                        "{{instance}} infinite or NaN",
                    ),
                    Query(
                        f"{rate('mse_grad_underflowed_elements_total', 'instance')} / "
                        f"{rate('mse_grad_sampled_elements_total', 'instance')}",
                        "{{instance}} underflowed",
                    ),
                ],
                warn=0.01,
            ),
            Panel(
                "Replaced processes",
                "Over ten minutes, by why the process ended. Alert MseGradWorkerRestarts.",
                "none",
                [
                    Query(
                        grown("mse_grad_worker_restarts_total", "instance, worker, reason", "10m"),
                        "{{instance}} {{worker}} {{reason}}",
                    )
                ],
                warn=1,
                alarm=3,
                columns=12,
            ),
            Panel(
                "What runs",
                "Version, backend, device, toolkit, begin of the hash of the kernel; how many workers run it. Two "
                "lines while an update is under way.",
                "none",
                [
                    Query(
                        "count by (version, backend, device, soc, cann, kernel) (label_replace("
                        f'mse_grad_build_info{{{OURS}}}, "kernel", "$1", "kernel_hash", "(.{{0,12}}).*"))',
                        "{{version}} {{backend}} {{device}} {{cann}} {{kernel}}",
                    )
                ],
                columns=12,
            ),
        ),
    )
    processes = Row(
        "Processes",
        (
            Panel(
                "Processors in use",
                "2 means that two cores are busy. Of each worker, and of the supervisor, which has little to do.",
                "none",
                [Query(rate("process_cpu_seconds_total", "instance, worker"), "{{instance}} {{worker}}")],
            ),
            Panel(
                "Memory",
                "Resident, shared memory of clients included. A limit of the container ends what is above it.",
                "bytes",
                [
                    Query(
                        f"sum by (instance, worker) (process_resident_memory_bytes{{{OURS}}})",
                        "{{instance}} {{worker}}",
                    )
                ],
            ),
            Panel(
                "Open files",
                "Of those that the process may have; sockets and segments of shared memory count.",
                "percentunit",
                [Query(f"process_open_fds{{{OURS}}} / process_max_fds{{{OURS}}}", "{{instance}} {{worker}}")],
                warn=0.5,
                alarm=0.8,
            ),
        ),
    )
    return dashboard(
        uid="mse-grad-service",
        title="mse-grad: service",
        text="Is it well? Traffic, errors, latency, saturation, workers.",
        rows=(at_a_glance, traffic, latency, saturation, processes),
        variables=VARIABLES,
        annotations=marks(),
    )
