"""The process of a survey. `survey.py` starts it with its arguments as JSON in one command-line argument."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from mse_grad_server.backends.ascend.acl.error_codes import AclError
from mse_grad_server.backends.ascend.acl.runtime import Acl
from mse_grad_server.backends.ascend.startup.diagnosis import explain, load_operator, load_runtime, set_environment
from mse_grad_server.backends.ascend.startup.libraries import find_op_library, find_runtime
from mse_grad_server.process.exits import StartError

__all__ = ["main"]


def main(asked: str) -> None:
    """Prints the result as one line of JSON; redirects the output of the libraries to stderr."""
    stdout = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    answer = _survey(*json.loads(asked))
    with os.fdopen(stdout, "w") as out:
        out.write(json.dumps(answer))


def _survey(runtime_folder: str, op_library: str, loads_operator: bool) -> dict[str, Any]:
    answer: dict[str, Any] = {"runtime": None, "operator": None, "devices": None}
    set_environment(os.environ)
    try:
        ascendcl, nnopbase = find_runtime(runtime_folder, os.environ)
        acl = load_runtime(ascendcl, nnopbase)
    except StartError as error:
        return {**answer, "runtime": _encoded(error)}
    answer["devices"] = _count_devices(acl)
    if loads_operator:
        try:
            load_operator(find_op_library(op_library, os.environ, runtime=ascendcl), acl)
        except StartError as error:
            answer["operator"] = _encoded(error)
    return answer


def _count_devices(acl: Acl) -> int | tuple[int, str]:
    try:
        acl.initialise()
        try:
            return acl.device_count()
        finally:
            acl.finalise()
    except AclError as error:
        return _encoded(explain(error, device=0))


def _encoded(error: StartError) -> tuple[int, str]:
    return int(error.exit_code), str(error)


if __name__ == "__main__":
    main(*sys.argv[1:])
