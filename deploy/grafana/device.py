"""The dashboard of the NPUs."""

from __future__ import annotations

from typing import Any

from panels import Panel, Query, Row, dashboard
from queries import VARIABLES, grown, marks, of_npus, rare_quantile, rate_of_npus

__all__ = ["device_dashboard"]

_CHIP = 'instance=~"$instance",worker=~"$worker"'
# Documents of Atlas A2 give its memory about 1.6 TB/s; the kernel reads three operands and writes one gradient.
_DEVICE_BYTES_PER_S = 1.6e12
_FLOAT32_ELEMENT_BYTES = 16


def device_dashboard() -> dict[str, Any]:
    """Returns the dashboard of the NPUs."""
    name = "{{instance}} {{worker}}"
    glance = Row(
        "At a glance",
        (
            Panel(
                "Devices that take gradients",
                "Alert MseGradDeviceDown.",
                "none",
                [Query(f"sum({of_npus('mse_grad_device_available')})")],
                warn=1,
                is_low_bad=True,
                is_number=True,
                columns=6,
            ),
            Panel(
                "Devices that rest",
                "Three repairs in a minute open the circuit. Alert MseGradDeviceCircuitOpen.",
                "none",
                [Query(f"sum({of_npus('mse_grad_device_circuit_open')})")],
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
                "Of what the memory of a chip can carry",
                "The kernel is bound by the chip's memory, about 1.6 TB/s. As float32, 16 bytes an element with "
                "its operands; 16-bit types move half. Far below 100 %, copies over PCIe or the network are the bound.",
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
                "Blocks computed",
                "A gradient is computed in blocks of --device-block-bytes.",
                "cps",
                [Query(rate_of_npus("mse_grad_device_blocks_total", "instance, worker"), name)],
            ),
            Panel(
                "Launches whose plan was kept",
                "Near 100 %: shapes repeat. Low for long: --device-executors is too small for the shapes in use.",
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
                "Memory that the server holds",
                "On the NPU, and pinned on the host for it: --device-slots times what --device-block-bytes asks for.",
                "bytes",
                [
                    Query(of_npus("mse_grad_device_memory_bytes"), f"{name} device"),
                    Query(of_npus("mse_grad_device_pinned_bytes"), f"{name} pinned"),
                ],
                columns=12,
            ),
            Panel(
                "Memory of the device that is free",
                "As the runtime says every 15 s: what this server and other processes on the device leave.",
                "bytes",
                [
                    Query(of_npus("mse_grad_device_free_bytes"), name),
                    Query(f"max({of_npus('mse_grad_device_total_bytes')})", "there is"),
                ],
                dashed=("there is",),
                columns=12,
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
                [Query(of_npus("mse_grad_device_available"), name)],
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
                "p99 over ten minutes, from the failure until gradients come again, by the rung that helped.",
                "s",
                [Query(rare_quantile(0.99, "mse_grad_device_repair_seconds", "rung", "10m"), "{{rung}}")],
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
        variables=VARIABLES,
        annotations=marks(),
    )
