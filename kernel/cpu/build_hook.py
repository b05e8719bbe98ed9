"""Build hook that compiles the CPU kernel during the install. If that fails, the install goes on, and NumPy computes.

The environment variable MSE_GRAD_BUILD_KERNEL decides. "auto", the default, compiles if there is a compiler. "0" leaves
the kernel out. "require" fails the install unless the kernel compiles without a warning. MSE_GRAD_WHEEL_PLATFORM is the
platform tag of a wheel with the kernel, such as "manylinux_2_28_aarch64", in place of this machine's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

__all__ = ["KernelBuildHook"]

SETTING = "MSE_GRAD_BUILD_KERNEL"
PLATFORM = "MSE_GRAD_WHEEL_PLATFORM"
LIBRARY = "mse_grad_kernel/libmse_loss_grad_cpu.so"


class KernelBuildHook(BuildHookInterface[Any]):
    """Puts the library beside the module that loads it: in the checkout for an editable install, else in the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles the kernel.

        Args:
            version: "editable" or "standard".
            build_data: Description of the wheel that hatchling builds; it gets the library.

        Raises:
            ValueError: MSE_GRAD_BUILD_KERNEL has an unknown value.
            RuntimeError: It is "require", and the kernel does not compile.
        """
        setting = os.environ.get(SETTING, "auto")
        if setting not in ("auto", "0", "require"):
            raise ValueError(f"{SETTING} is {setting!r}; it must be 'auto', '0' or 'require'")
        in_checkout = Path(self.root, "kernel", LIBRARY)
        if version == "editable":
            if not self._build(in_checkout, setting):
                # Otherwise the library of an earlier install would still be loaded.
                in_checkout.unlink(missing_ok=True)
            return
        self._scratch = tempfile.TemporaryDirectory()
        library = Path(self._scratch.name, in_checkout.name)
        if self._build(library, setting):
            build_data["force_include"][str(library)] = LIBRARY
            build_data["pure_python"] = False
            platform = os.environ.get(PLATFORM) or sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{platform}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Removes what `initialize` made outside the wheel."""
        if version != "editable":
            self._scratch.cleanup()

    def _build(self, output: Path, setting: str) -> bool:
        """Returns whether `output` was written; displays the reason if it was not."""
        if setting == "0":
            self.app.display_info(f"{SETTING} is '0': the CPU kernel is left out, NumPy will compute")
            return False
        command = [sys.executable, str(Path(self.root, "kernel", "cpu", "build_kernel.py")), "--output", str(output)]
        if setting == "require":
            command.append("--warnings-are-errors")
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode == 0:
            return True
        if setting == "require":
            raise RuntimeError(f"{SETTING} is 'require', but the CPU kernel did not compile:\n{result.stderr}")
        self.app.display_warning(f"the CPU kernel did not compile, NumPy will compute:\n{result.stderr}")
        return False
