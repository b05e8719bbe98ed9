"""The service dashboard: traffic, errors, latency, saturation and workers."""

from __future__ import annotations

from typing import Any

from source.panels import Panel, Query, Row, dashboard
from source.queries import OURS, VARIABLES, grown, marks, quantile, rate

__all__ = ["service_dashboard"]

# Green: success; blue: the caller's decision; yellow: passes by itself; orange and red: need attention.
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
    """Returns the service dashboard, which operators open first."""
    at_a_glance = Row(
        "Overview",
        (
            Panel(
                "Ready workers",
                "Workers, and processes without workers, that take requests. Red: none. Alert MseGradNotReady.",
                "none",
                [Query(f"sum(mse_grad_ready{{{OURS}}})")],
                warn=1,
                is_low_bad=True,
                is_number=True,
                columns=4,
            ),
            Panel(
                "Workers not ready",
                "Workers that take no requests. The other workers serve. Alert MseGradWorkerMissing.",
                "none",
                [Query(f'sum(1 - mse_grad_worker_state{{{OURS},state="ready"}}) or sum(1 - mse_grad_ready{{{OURS}}})')],
                warn=1,
                is_number=True,
                columns=4,
            ),
            Panel(
                "Request rate",
                "Completed requests per second, with any code.",
                "reqps",
                [Query(rate("mse_grad_requests_total", "job"))],
                is_number=True,
                columns=4,
            ),
            Panel(
                "Error ratio",
                "Share of the job's requests that ended with INTERNAL, UNAVAILABLE or DEADLINE_EXCEEDED, over 5 "
                "minutes. The objective is 0.1 %; red means that the error budget burns 14.4 times too fast. Alerts "
                "MseGradErrorBudgetBurnsFast and MseGradErrorBudgetBurnsSlowly.",
                "percentunit",
                [Query('job:mse_grad_errors:ratio_rate5m{job="mse-grad"}')],
                warn=0.001,
                alarm=0.0144,
                is_number=True,
                columns=4,
            ),
            Panel(
                "Busy rejection ratio",
                "Share of requests rejected with SERVER_BUSY or TOO_MANY_OPEN_REQUESTS, on the worst host. Clients "
                "retry. Alert MseGradSaturated.",
                "percentunit",
                [Query('max(instance:mse_grad_busy:ratio_rate5m{job="mse-grad",instance=~"$instance"})')],
                warn=0.001,
                alarm=0.01,
                is_number=True,
                columns=4,
            ),
            Panel(
                "p99 latency",
                "The highest p99 request latency over all methods and hosts. Alert MseGradSlow.",
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
                "gRPC codes of completed requests. A stream carries many requests; each counts.",
                "reqps",
                [Query(rate("mse_grad_requests_total", "code"), "{{code}}")],
                is_stacked=True,
                colors=_CODES,
            ),
            Panel(
                "Requests by dtype and reduction",
                "`unknown` if the request had no valid dtype or reduction.",
                "reqps",
                [Query(rate("mse_grad_requests_total", "dtype, reduction"), "{{dtype}} {{reduction}}")],
                is_stacked=True,
            ),
            Panel(
                "Throughput in bytes",
                "Operands in and gradients out, in messages or in shared memory.",
                "Bps",
                [Query(rate("mse_grad_transferred_bytes_total", "direction"), "{{direction}}")],
            ),
        ),
    )
    latency = Row(
        "Latency",
        (
            Panel(
                "Request latency",
                "From the arrival of a request to its last answer. It grows with the size of the tensors: compare it "
                "with the throughput in bytes.",
                "s",
                [
                    Query(quantile(0.5, "mse_grad_request_seconds", "method"), "{{method}} p50"),
                    Query(quantile(0.99, "mse_grad_request_seconds", "method"), "{{method}} p99"),
                ],
                warn=0.5,
                alarm=1,
            ),
            Panel(
                "Mean request latency by worker",
                "If one worker is slower than the others, it has a slow device or larger tensors.",
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
                "Throughput in elements by worker",
                "Elements of gradients per second: the balance between the workers.",
                "cps",
                [Query(rate("mse_grad_elements_total", "instance, worker"), "{{instance}} {{worker}}")],
            ),
            Panel(
                "p99 latency by phase",
                "Of a message, and on an NPU of a timed block. queue: waiting for a thread, a slot or a turn; decode: "
                "reading and checking; copy_in, copy_out: copies to the NPU and back; kernel: computing; encode: "
                "writing the answer.",
                "s",
                [Query(quantile(0.99, "mse_grad_phase_seconds", "phase"), "{{phase}}")],
                columns=12,
            ),
            Panel(
                "Mean concurrency by phase",
                "Messages in each phase on average. On an NPU only the blocks that --device-timing-every times count. "
                "If queue is above kernel, raise --compute-threads or add a worker or a device.",
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
                "Bytes in flight",
                "Operand bytes of admitted requests without an answer. The server rejects a request that exceeds "
                "--max-in-flight-bytes with SERVER_BUSY.",
                "bytes",
                [Query(f"sum by (instance, worker) (mse_grad_in_flight_bytes{{{OURS}}})", "{{instance}} {{worker}}")],
            ),
            Panel(
                "Requests in flight and open streams",
                "Admitted requests that have not ended, and open streams of clients.",
                "none",
                [
                    Query(f"sum by (instance) (mse_grad_in_flight_requests{{{OURS}}})", "{{instance}} requests"),
                    Query(f"sum by (instance) (mse_grad_open_streams{{{OURS}}})", "{{instance}} streams"),
                ],
            ),
            Panel(
                "Workers by state",
                "starting, ready, recovering (repairs its device), draining, gone (given up). Not for a process "
                "without workers.",
                "none",
                [Query(f"sum by (state) (mse_grad_worker_state{{{OURS}}})", "{{state}}")],
                is_stacked=True,
                colors=_STATES,
            ),
            Panel(
                "Queue length",
                "Messages, or parts of a message, that wait for a compute thread.",
                "none",
                [Query(f"sum by (instance, worker) (mse_grad_queued_messages{{{OURS}}})", "{{instance}} {{worker}}")],
            ),
            Panel(
                "Startup time by step",
                "Last start of the slowest worker.",
                "s",
                [Query(f"max by (step) (mse_grad_start_seconds{{{OURS}}})", "{{step}}")],
            ),
            Panel(
                "Non-finite and underflowed gradients",
                "Share of the elements that --output-sample-every examines, if it is on. The inputs are the usual "
                "cause.",
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
                "Worker restarts",
                "Over ten minutes, by the reason why the process ended. Alert MseGradWorkerRestarts.",
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
                "Running versions",
                "Workers by version, backend, device, toolkit and kernel hash. Two lines during an update.",
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
                "CPU usage",
                "In cores, of each worker and of the supervisor, which has little to do.",
                "none",
                [Query(rate("process_cpu_seconds_total", "instance, worker"), "{{instance}} {{worker}}")],
            ),
            Panel(
                "Resident memory",
                "Includes clients' shared memory. A container limit kills a process above it.",
                "bytes",
                [
                    Query(
                        f"sum by (instance, worker) (process_resident_memory_bytes{{{OURS}}})",
                        "{{instance}} {{worker}}",
                    )
                ],
            ),
            Panel(
                "File descriptor utilization",
                "Share of the process's limit, sockets and shared memory segments included.",
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
        text="Traffic, errors, latency, saturation and workers.",
        rows=(at_a_glance, traffic, latency, saturation, processes),
        variables=VARIABLES,
        annotations=marks(),
    )
