"""Cost of Ray Serve against a server without it: `PYTHONPATH=tests python -m benchmarks.ray_serve`; needs root."""

from __future__ import annotations

from support.deploy.ray_processes import run_with_ray

_LONGEST_S = 300.0


def main() -> None:
    """Prints the table."""
    output = run_with_ray("-m", "support.deploy.ray_cost", timeout_s=_LONGEST_S)
    print("\n".join(line for line in output.splitlines() if line.startswith("|")))


if __name__ == "__main__":
    main()
