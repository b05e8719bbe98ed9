"""The command `mse-grad-server` on the simulated NPU, with faults from stdin: a line is a fault, or "clear".

The syntax of a fault is that of tests/simulator/src/acl/faults.h. The pauses of the circuit breaker are short, so that
faults that follow one another meet a device that computes.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from mse_grad_server import __main__ as command
from mse_grad_server.backends.ascend.recovery import ladder
from support.npu.runtime import AscendRuntime


def follow(runtime: AscendRuntime) -> None:
    """Applies the lines of stdin."""
    for line in sys.stdin:
        if line.strip() == "clear":
            runtime.clear_faults()
        else:
            runtime.add_faults(line.strip())


if __name__ == "__main__":
    arguments = sys.argv[1:]
    folder = Path(arguments[arguments.index("--ascend-runtime-folder") + 1])
    ladder._FIRST_PAUSE_S, ladder._LONGEST_PAUSE_S = 0.02, 0.1
    threading.Thread(target=follow, args=(AscendRuntime(folder),), daemon=True).start()
    sys.exit(command.main(arguments))
