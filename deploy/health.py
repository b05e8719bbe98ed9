"""Ends with 0 while the server takes requests, as grpc.health.v1 says, and with 1 otherwise. For HEALTHCHECK."""

from __future__ import annotations

import os
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_TIMEOUT_S = 3.0


def main() -> int:
    """Asks the address that the server's own variable names, and says on stderr what is wrong."""
    address = os.environ.get("MSE_GRAD_LISTEN", "127.0.0.1:50051")
    # Where the server binds every address, it is asked at the loopback.
    target = address.replace("0.0.0.0:", "127.0.0.1:", 1).replace("[::]:", "[::1]:", 1)
    try:
        with grpc.insecure_channel(target) as channel:
            request = health_pb2.HealthCheckRequest()
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=_TIMEOUT_S, wait_for_ready=True)
    except grpc.RpcError as error:
        print(f"{target}: {error.code().name}", file=sys.stderr)
        return 1
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    if status != "SERVING":
        print(f"{target}: {status}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
