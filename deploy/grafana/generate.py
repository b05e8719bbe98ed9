"""Writes the dashboards: `python deploy/grafana/generate.py`. The files under dashboards/ are never edited by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from panels import Panel, Query, Row, dashboard

__all__ = ["FOLDER", "dashboards"]

FOLDER = Path(__file__).parent / "dashboards"

_OURS = 'job="mse-grad",instance=~"$instance",worker=~"$worker"'
_CHIP = 'instance=~"$instance",worker=~"$worker"'
_RATE = "$__rate_interval"
_IN = 'direction="in"'
# Documents of Atlas A2 give its memory about 1.6 TB/s; the kernel reads three operands and writes one gradient.
_DEVICE_BYTES_PER_S = 1.6e12
_FLOAT32_ELEMENT_BYTES = 16
# A process alone has no label `worker`.
_NPU = 'worker=~"npu:.*|"'

_VARIABLES = (
    {"name": "instance", "label": "Host", "query": 'label_values(mse_grad_ready{job="mse-grad"}, instance)'},
    {
        "name": "worker",
        "label": "Worker",
        "query": 'label_values(mse_grad_ready{job="mse-grad",instance=~"$instance"}, worker)',
    },
)


def rate(metric: str, by: str, labels: str = "") -> str:
    """Returns PromQL for how fast a counter of ours grows, a second, summed by some labels."""
    selector = f"{_OURS},{labels}" if labels else _OURS
    return f"sum by ({by}) (rate({metric}{{{selector}}}[{_RATE}]))"


def quantile(of: float, metric: str, by: str) -> str:
    """Returns PromQL for a quantile of a histogram of ours."""
    return f"histogram_quantile({of}, {rate(f'{metric}_bucket', f'{by}, le')})"


def grown(metric: str, by: str, window: str) -> str:
    """Returns PromQL for by how much a counter of ours grew, the first time that it is seen included.

    `increase` takes no notice of a counter that begins with 1, as those of rare events do.
    """
    counter = f"{metric}{{{_OURS}}}"
    return f"sum by ({by}) (clamp_min({counter} - ({counter} offset {window} or 0 * {counter}), 0))"


def annotations() -> Sequence[dict[str, Any]]:
    """Returns what every dashboard marks on the time axis."""
    return (
        {
            "name": "Starts",
            "query": f"mse_grad_elements_created{{{_OURS}}} * 1000",
            "title": "{{instance}} {{worker}} started",
            "color": "blue",
            "is_time": True,
        },
        {
            "name": "Repairs",
            "query": f"{grown('mse_grad_device_rungs_total', 'instance, worker, rung', _RATE)} > 0",
            "title": "{{instance}} {{worker}}: {{rung}}",
            "color": "red",
            "is_time": False,
        },
    )


def service() -> dict[str, Any]:
    """Returns the dashboard that an operator opens first."""
    at_a_glance = Row(
        "At a glance",
        (
            Panel(
                "Workers that take requests",
                "Workers, or processes alone, that are ready. Red: nobody is. Alert MseGradNotReady.",
                "none",
                [Query(f"sum(mse_grad_ready{{{_OURS}}})")],
                warn=1,
                is_low_bad=True,
                is_number=True,
                columns=4,
            ),
            Panel(
                "Workers that are missing",
                "Workers that take no requests. The others serve. Alert MseGradWorkerMissing.",
                "none",
                [
                    Query(
                        f'sum(1 - mse_grad_worker_state{{{_OURS},state="ready"}}) or sum(1 - mse_grad_ready{{{_OURS}}})'
                    )
                ],
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
                "Operands received and gradients sent in messages; shared memory is not in it.",
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
                [Query(f"sum by (instance, worker) (mse_grad_in_flight_bytes{{{_OURS}}})", "{{instance}} {{worker}}")],
            ),
            Panel(
                "Requests in flight and streams",
                "Requests that are admitted and have not ended; streams of clients that are open.",
                "none",
                [
                    Query(f"sum by (instance) (mse_grad_in_flight_requests{{{_OURS}}})", "{{instance}} requests"),
                    Query(f"sum by (instance) (mse_grad_open_streams{{{_OURS}}})", "{{instance}} streams"),
                ],
            ),
            Panel(
                "Workers by state",
                "starting, ready, recovering (its device), draining, gone (given up). Processes alone are not here.",
                "none",
                [
                    Query(
                        f"sum by (state) (mse_grad_worker_state{{{_OURS}}})",
                        "{{state}}",
                    )
                ],
                is_stacked=True,
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
                "Version, backend, device and hash of the kernel; the number is how many workers run it. Two lines "
                "while an update is under way.",
                "none",
                [
                    Query(
                        f"count by (version, backend, device, kernel_hash) (mse_grad_build_info{{{_OURS}}})",
                        "{{version}} {{backend}} {{device}} {{kernel_hash}}",
                    )
                ],
                columns=12,
            ),
        ),
    )
    return dashboard(
        uid="mse-grad-service",
        title="mse-grad: service",
        text="Is it well? Traffic, errors, latency, saturation, workers.",
        rows=(at_a_glance, traffic, latency, saturation),
        variables=_VARIABLES,
        annotations=annotations(),
    )


def device() -> dict[str, Any]:
    """Returns the dashboard of the NPUs."""
    name = "{{instance}} {{worker}}"
    npu = f"{_OURS},{_NPU}"
    glance = Row(
        "At a glance (a server on the CPU has no device: 0)",
        (
            Panel(
                "Devices that take gradients",
                "Alert MseGradDeviceDown.",
                "none",
                [Query(f"sum(mse_grad_device_available{{{npu}}})")],
                warn=1,
                is_low_bad=True,
                is_number=True,
                columns=6,
            ),
            Panel(
                "Devices that rest",
                "Three repairs in a minute open the circuit. Alert MseGradDeviceCircuitOpen.",
                "none",
                [Query(f"sum(mse_grad_device_circuit_open{{{npu}}})")],
                warn=1,
                alarm=1,
                is_number=True,
                columns=6,
            ),
            Panel(
                "Chips that are not healthy",
                "As npu-exporter says.",
                "none",
                [Query(f"sum(1 - worker:npu_chip_healthy:bool{{{_CHIP}}})")],
                warn=1,
                alarm=1,
                is_number=True,
                columns=6,
            ),
            Panel(
                "Computed by the fallback",
                "Elements that the CPU computed in place of the NPU, of all. Alert MseGradFallback.",
                "percentunit",
                [
                    Query(
                        f"{rate('mse_grad_fallback_elements_total', 'job', _NPU)} / "
                        f"{rate('mse_grad_elements_total', 'job', _NPU)}"
                    )
                ],
                warn=0.001,
                is_number=True,
                columns=6,
            ),
        ),
    )
    throughput = Row(
        "Throughput",
        (
            Panel(
                "Of what the memory of a chip can carry",
                "The kernel is bound by the chip's memory, about 1.6 TB/s. As float32, 16 bytes an element with "
                "its operands; 16-bit types move half. Far below 100 %, copies over PCIe or the network are the bound.",
                "percentunit",
                [
                    Query(
                        f"{_FLOAT32_ELEMENT_BYTES} * {rate('mse_grad_elements_total', 'instance, worker', _NPU)} "
                        f"/ {_DEVICE_BYTES_PER_S:.0f}",
                        name,
                    )
                ],
            ),
            Panel(
                "Blocks computed",
                "A gradient is computed in blocks of --device-block-bytes.",
                "cps",
                [Query(rate("mse_grad_device_blocks_total", "instance, worker", _NPU), name)],
            ),
            Panel(
                "Launches planned for each block",
                "Near 0: shapes repeat and their plans are kept. Near 1: --device-executors is too small.",
                "percentunit",
                [
                    Query(
                        f"{rate('mse_grad_device_plans_total', 'instance, worker', _NPU)} / "
                        f"{rate('mse_grad_device_blocks_total', 'instance, worker', _NPU)}",
                        name,
                    )
                ],
                warn=0.2,
                alarm=0.5,
                most=1,
            ),
        ),
    )
    faults = Row(
        "Faults and repairs",
        (
            Panel(
                "Takes gradients",
                "1 while the device takes gradients, 0 while it is repaired or rests.",
                "none",
                [Query(f"mse_grad_device_available{{{npu}}}", name)],
                most=1,
            ),
            Panel(
                "Faults by class",
                "Over ten minutes. Nothing is lost: what was under way is computed again.",
                "none",
                [
                    Query(
                        grown("mse_grad_device_faults_total", "instance, worker, fault", "10m"),
                        f"{name} {{{{fault}}}}",
                    )
                ],
                warn=1,
            ),
            Panel(
                "Repairs tried, by rung",
                "Over ten minutes: retry, rebuild (context and streams), reset (the device), end (of the process). "
                "Alert MseGradDeviceRecovering.",
                "none",
                [
                    Query(
                        grown("mse_grad_device_rungs_total", "instance, worker, rung", "10m"),
                        f"{name} {{{{rung}}}}",
                    )
                ],
                warn=1,
            ),
            Panel(
                "Time of a repair",
                "p99, from the failure until gradients come again, by the rung that helped.",
                "s",
                [Query(quantile(0.99, "mse_grad_device_repair_seconds", "rung"), "{{rung}}")],
                warn=1,
                alarm=10,
                columns=12,
            ),
            Panel(
                "Elements by who computed them",
                "The device, or the fallback on the CPU: same bits, slower.",
                "cps",
                [
                    Query(
                        f"{rate('mse_grad_elements_total', 'job', _NPU)} - "
                        f"{rate('mse_grad_fallback_elements_total', 'job', _NPU)}",
                        "device",
                    ),
                    Query(rate("mse_grad_fallback_elements_total", "job", _NPU), "fallback"),
                ],
                is_stacked=True,
                columns=12,
            ),
        ),
    )
    chip = Row(
        "Chip (npu-exporter)",
        (
            Panel(
                "Cores in use",
                "AI cores, as npu-exporter says.",
                "percent",
                [Query(f"worker:npu_chip_utilization:percent{{{_CHIP}}}", name)],
                most=100,
                columns=6,
            ),
            Panel(
                "Memory of the chip",
                "Used, and how much there is.",
                "bytes",
                [
                    Query(f"worker:npu_chip_hbm_used:bytes{{{_CHIP}}}", name),
                    Query(f"max(worker:npu_chip_hbm_total:bytes{{{_CHIP}}})", "there is"),
                ],
                dashed=("there is",),
                columns=6,
            ),
            Panel(
                "Temperature",
                "Chips slow down when they are hot.",
                "celsius",
                [Query(f"worker:npu_chip_temperature:celsius{{{_CHIP}}}", name)],
                warn=80,
                alarm=95,
                columns=6,
            ),
            Panel(
                "Power",
                "Of the chip.",
                "watt",
                [Query(f"worker:npu_chip_power:watts{{{_CHIP}}}", name)],
                columns=6,
            ),
        ),
    )
    return dashboard(
        uid="mse-grad-device",
        title="mse-grad: device",
        text="The NPUs: throughput, faults and repairs, and what npu-exporter says of the chips.",
        rows=(glance, throughput, faults, chip),
        variables=_VARIABLES,
        annotations=annotations(),
    )


def client() -> dict[str, Any]:
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
                "after, which the SDK keeps to.",
                "reqps",
                [Query(rate("mse_grad_refusals_total", "reason"), "{{reason}}")],
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
                "Requests that a retry can help",
                "UNAVAILABLE and RESOURCE_EXHAUSTED: what the SDK sends again, to another worker where there is one.",
                "reqps",
                [
                    Query(
                        rate("mse_grad_requests_total", "method, code", 'code=~"UNAVAILABLE|RESOURCE_EXHAUSTED"'),
                        "{{method}} {{code}}",
                    )
                ],
                columns=12,
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
                "Memory of clients that is mapped",
                "Bounded by --shared-memory-bytes.",
                "bytes",
                [
                    Query(
                        f"sum by (instance, worker) (mse_grad_shared_memory_bytes{{{_OURS}}})",
                        "{{instance}} {{worker}}",
                    )
                ],
            ),
            Panel(
                "Open streams by worker",
                "A client has one to each worker that it reaches. One worker alone with streams: the clients use the "
                "common port only, because its neighbours' ports cannot be reached.",
                "none",
                [Query(f"sum by (instance, worker) (mse_grad_open_streams{{{_OURS}}})", "{{instance}} {{worker}}")],
                columns=12,
            ),
            Panel(
                "Bytes of a request, mean",
                "Operands in messages. When it grows, so does the time of a request.",
                "bytes",
                [
                    Query(
                        f"{rate('mse_grad_transferred_bytes_total', 'instance', _IN)} / "
                        f"{rate('mse_grad_requests_total', 'instance')}",
                        "{{instance}}",
                    )
                ],
                columns=12,
            ),
        ),
    )
    return dashboard(
        uid="mse-grad-client",
        title="mse-grad: client's view",
        text="What callers see: refusals, deadlines, what they retry, and the way their tensors take.",
        rows=(answered, ways),
        variables=_VARIABLES,
        annotations=annotations(),
    )


def dashboards() -> dict[str, str]:
    """Returns the text of each dashboard by the name of its file."""
    made = {"service.json": service(), "device.json": device(), "client.json": client()}
    return {name: json.dumps(content, indent=2) + "\n" for name, content in made.items()}


if __name__ == "__main__":
    for file_name, content in dashboards().items():
        (FOLDER / file_name).write_text(content)
