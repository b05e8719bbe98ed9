"""Files of a release: the source distribution, and from it a wheel without the CPU kernel and wheels with it.

PYTHONPATH=tests .venv/bin/python -m tools.wheels dist    # `make wheels`

The wheels with the kernel are for x86-64 and aarch64. `auditwheel` reads the symbols of glibc that the kernel needs and
the oldest manylinux tag that has them; a wheel whose own tag promises an older system fails.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

__all__ = ["GLIBC", "WHEELS", "WheelError", "glibc_needed"]

ROOT = Path(__file__).parents[2]
GLIBC = (2, 28)
"""Oldest glibc of the systems that the wheels are for: that of Debian 10, RHEL 8, openEuler 20.03."""


@dataclass(frozen=True)
class Wheel:
    """A wheel to build.

    Attributes:
        compiler: Command of the compiler; "" for a wheel without the kernel.
        architecture: Name of the processor in the wheel's tag; "" for any.
    """

    compiler: str = ""
    architecture: str = ""

    @property
    def platform(self) -> str:
        """Platform tag of the wheel."""
        return f"manylinux_{GLIBC[0]}_{GLIBC[1]}_{self.architecture}" if self.architecture else "any"


WHEELS = (
    Wheel(),
    Wheel("x86_64-linux-gnu-g++", "x86_64"),
    Wheel("aarch64-linux-gnu-g++", "aarch64"),
)


class WheelError(Exception):
    """A wheel cannot be built or is not what its name says."""


def glibc_needed(report: str) -> tuple[int, int]:
    """Returns the version of glibc in the report of `auditwheel show`.

    Raises:
        WheelError: The report names no tag of manylinux, since the wheel links libraries that not every system has.
    """
    joined = " ".join(report.split())
    match = re.search(r'platform tag: "manylinux_(\d+)_(\d+)_\w+"', joined)
    if match is None:
        raise WheelError(f"auditwheel names no tag of manylinux:\n{report}")
    return int(match[1]), int(match[2])


def _build(source: Path, wheel: Wheel, output: Path) -> Path:
    if wheel.compiler and shutil.which(wheel.compiler) is None:
        raise WheelError(
            f"there is no {wheel.compiler}; Debian has it in g++-{wheel.architecture.replace('_', '-')}-linux-gnu"
        )
    kernel = {"MSE_GRAD_BUILD_KERNEL": "0"}
    if wheel.compiler:
        kernel = {
            "MSE_GRAD_BUILD_KERNEL": "require",
            "MSE_GRAD_WHEEL_PLATFORM": wheel.platform,
            "CXX": wheel.compiler,
        }
    with tempfile.TemporaryDirectory() as folder:
        _run("build", "--wheel", "--outdir", folder, str(source), **kernel)
        (built,) = Path(folder).glob("*.whl")
        if not built.name.endswith(f"-py3-none-{wheel.platform}.whl"):
            raise WheelError(f"{built.name} is not for {wheel.platform}")
        if wheel.compiler:
            needed = glibc_needed(_run("auditwheel", "show", str(built)))
            if needed > GLIBC:
                raise WheelError(f"{built.name} needs glibc {needed[0]}.{needed[1]}")
            print(f"{built.name}: needs glibc {needed[0]}.{needed[1]}", flush=True)
        return Path(shutil.move(built, output))


def _run(module: str, *arguments: str, **environment: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode != 0:
        raise WheelError(f"python -m {module} {' '.join(arguments)}\n{ended.stdout}{ended.stderr}")
    return ended.stdout


def _main(output: Path) -> int:
    try:
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        _run("build", "--sdist", "--outdir", str(output), str(ROOT))
        (archive,) = output.glob("*.tar.gz")
        with tempfile.TemporaryDirectory() as folder:
            with tarfile.open(archive) as opened:
                opened.extractall(folder, filter="data")
            (source,) = Path(folder).iterdir()
            for wheel in WHEELS:
                _build(source, wheel, output)
    except WheelError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(sorted(path.name for path in output.iterdir())))
    return 0


if __name__ == "__main__":
    raise SystemExit(_main(Path(sys.argv[1])))
