"""The device dashboard: throughput, faults and repairs of the NPUs, and the exporter's view of their chips."""

from __future__ import annotations

from typing import Any

from source.panels import Panel, Query, Row, dashboard
from source.queries import VARIABLES, grown, marks, of_npus, rare_quantile, rate_of_npus

__all__ = ["device_dashboard"]

_CHIP = 'instance=~"$instance",worker=~"$worker"'
# Peak memory bandwidth of an Atlas A2 chip by its documents. The kernel reads three operands and writes one gradient.
_DEVICE_BYTES_PER_S = 1.6e12
_FLOAT32_ELEMENT_BYTES = 16


def device_dashboard() -> dict[str, Any]:
    """Returns the device dashboard."""
    name = "{{instance}} {{worker}}"
    glance = Row(
        "Overview",
        (
            Panel(
                "Available devices",
                "Devices that compute gradients. Alert MseGradDeviceDown.",
                "none",
                [Query(f"sum({of_npus('mse_grad_device_available')})")],
                warn=1,
                is_low_bad=True,
                is_number=True,
                columns=6,
            ),
            Panel(
                "Open circuit breakers",
                "Devices that pause because of three repairs within a minute. Alert MseGradDeviceCircuitOpen.",
                "none",
                [Query(f"sum({of_npus('mse_grad_device_circuit_open')})")],
                warn=1,
                alarm=1,
                is_number=True,
                columns=6,
            ),
            Panel(
                "Unhealthy chips",
                "As npu-exporter reports.",
                "none",
                [Query(f"sum(1 - worker:npu_chip_healthy:bool{{{_CHIP}}})")],
                warn=1,
                alarm=1,
                is_number=True,
                columns=6,
            ),
            Panel(
                "Fallback ratio",
                "Share of the elements that the CPU computed instead of the NPU. Alert MseGradFallback.",
                "percentunit",
                [
                    Query(
                        f"{rate_of_npus('mse_grad_fallback_elements_total', 'job')} / "
                        f"{rate_of_npus('mse_grad_elements_total', 'job')}"
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
                "Memory bandwidth utilization",
                "Share of the chip's peak memory bandwidth, about 1.6 TB/s, which limits the kernel. Computed for "
                "float32: 16 bytes per element with its operands; 16-bit types move half. Far below 100 %, copies over "
                "PCIe or the network are the limit.",
                "percentunit",
                [
                    Query(
                        f"{_FLOAT32_ELEMENT_BYTES} * {rate_of_npus('mse_grad_elements_total', 'instance, worker')} "
                        f"/ {_DEVICE_BYTES_PER_S:.0f}",
                        name,
                    )
                ],
            ),
            Panel(
                "Block rate",
                "Computed blocks per second. A gradient is computed in blocks of --device-block-bytes.",
                "cps",
                [Query(rate_of_npus("mse_grad_device_blocks_total", "instance, worker"), name)],
            ),
            Panel(
                "Executor cache hit ratio",
                "Share of launches whose executor was cached. Near 100 % if shapes repeat. If it stays low, "
                "--device-executors is too small for the shapes in use.",
                "percentunit",
                [
                    Query(
                        f"{rate_of_npus('mse_grad_device_plan_hits_total', 'instance, worker')} / "
                        f"({rate_of_npus('mse_grad_device_plan_hits_total', 'instance, worker')} + "
                        f"{rate_of_npus('mse_grad_device_plans_total', 'instance, worker')})",
                        name,
                    )
                ],
                warn=0.8,
                alarm=0.5,
                is_low_bad=True,
                most=1,
            ),
            Panel(
                "Allocated memory",
                "Memory that the server holds on the NPU, and pinned memory of the host. --device-slots and "
                "--device-block-bytes decide both.",
                "bytes",
                [
                    Query(of_npus("mse_grad_device_memory_bytes"), f"{name} device"),
                    Query(of_npus("mse_grad_device_pinned_bytes"), f"{name} pinned"),
                ],
                columns=12,
            ),
            Panel(
                "Free device memory",
                "As the runtime reports every 15 s: memory that neither this server nor another process uses.",
                "bytes",
                [
                    Query(of_npus("mse_grad_device_free_bytes"), name),
                    Query(f"max({of_npus('mse_grad_device_total_bytes')})", "total"),
                ],
                dashed=("total",),
                columns=12,
            ),
        ),
    )
    faults = Row(
        "Faults and repairs",
        (
            Panel(
                "Device availability",
                "1 while the device computes gradients, 0 during a repair or while its circuit breaker is open.",
                "none",
                [Query(of_npus("mse_grad_device_available"), name)],
                most=1,
            ),
            Panel(
                "Faults by class",
                "Over ten minutes. No request is lost: the server computes interrupted gradients again.",
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
                "Repair attempts by step",
                "Over ten minutes: retry, rebuild (context and streams), reset (the device), end (the process). Alert "
                "MseGradDeviceRecovering.",
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
                "p99 repair time",
                "Over ten minutes, from the failure to the next correct gradient, by the step that helped.",
                "s",
                [Query(rare_quantile(0.99, "mse_grad_device_repair_seconds", "rung", "10m"), "{{rung}}")],
                warn=1,
                alarm=10,
                columns=12,
            ),
            Panel(
                "Throughput in elements, device and fallback",
                "The fallback on the CPU gives the same bits, slower.",
                "cps",
                [
                    Query(
                        f"{rate_of_npus('mse_grad_elements_total', 'job')} - "
                        f"{rate_of_npus('mse_grad_fallback_elements_total', 'job')}",
                        "device",
                    ),
                    Query(rate_of_npus("mse_grad_fallback_elements_total", "job"), "fallback"),
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
                "AI core utilization",
                "As npu-exporter reports.",
                "percent",
                [Query(f"worker:npu_chip_utilization:percent{{{_CHIP}}}", name)],
                most=100,
                columns=6,
            ),
            Panel(
                "HBM usage",
                "Used and total memory of the chip.",
                "bytes",
                [
                    Query(f"worker:npu_chip_hbm_used:bytes{{{_CHIP}}}", name),
                    Query(f"max(worker:npu_chip_hbm_total:bytes{{{_CHIP}}})", "total"),
                ],
                dashed=("total",),
                columns=6,
            ),
            Panel(
                "Temperature",
                "Chips throttle when they are hot.",
                "celsius",
                [Query(f"worker:npu_chip_temperature:celsius{{{_CHIP}}}", name)],
                warn=80,
                alarm=95,
                columns=6,
            ),
            Panel(
                "Power",
                "Power draw of the chip.",
                "watt",
                [Query(f"worker:npu_chip_power:watts{{{_CHIP}}}", name)],
                columns=6,
            ),
        ),
    )
    return dashboard(
        uid="mse-grad-device",
        title="mse-grad: device",
        text="NPUs: throughput, faults and repairs, and the chips as npu-exporter reports them.",
        rows=(glance, throughput, faults, chip),
        variables=VARIABLES,
        annotations=marks(),
    )
