"""The environment of gRPC's core, which reads it once, when `grpc` is imported."""

from __future__ import annotations

import os
import sys

__all__ = ["EXPERIMENTS_VARIABLE", "set_grpc_environment"]

EXPERIMENTS_VARIABLE = "GRPC_EXPERIMENTS"
_VERBOSITY_VARIABLE = "GRPC_VERBOSITY"


def set_grpc_environment(experiments: str) -> None:
    """Tells gRPC's core which experiments to use, and to be silent unless the environment says otherwise.

    Args:
        experiments: What its variable GRPC_EXPERIMENTS takes; names that it does not know do nothing.

    Raises:
        RuntimeError: It is too late.
    """
    if "grpc" in sys.modules:
        raise RuntimeError("grpc is imported already and has read its environment")
    os.environ[EXPERIMENTS_VARIABLE] = experiments
    # It writes lines of its own format to stderr, which carries one JSON object a line here.
    os.environ.setdefault(_VERBOSITY_VARIABLE, "NONE")
