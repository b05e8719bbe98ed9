"""Ends with 0 while the server takes requests, as grpc.health.v1 says, and with 1 otherwise. For HEALTHCHECK.

Looks at the server's own variables, and at its certificate, which with TLS is the only one that it trusts. A server
that asks for certificates of clients (mTLS) would close the connection: it is asked for /ready on the port of its
metrics.
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_TIMEOUT_S = 3.0


def main() -> int:
    """Asks the address that the server's own variables name, and says on stderr what is wrong."""
    if os.environ.get("MSE_GRAD_TLS_CLIENT_CA"):
        target = _near(os.environ.get("MSE_GRAD_METRICS_LISTEN", "127.0.0.1:9464"))
        wrong = _ask_ready(target)
    else:
        target = _near(os.environ.get("MSE_GRAD_LISTEN", "127.0.0.1:50051"))
        wrong = _ask_health(target)
    if wrong:
        print(f"{target}: {wrong}", file=sys.stderr)
        return 1
    return 0


def _near(address: str) -> str:
    # Where the server binds every address, it is asked at the loopback.
    return address.replace("0.0.0.0:", "127.0.0.1:", 1).replace("[::]:", "[::1]:", 1)


def _ask_health(target: str) -> str:
    try:
        with _channel(target) as channel:
            request = health_pb2.HealthCheckRequest()
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=_TIMEOUT_S, wait_for_ready=True)
    except grpc.RpcError as error:
        return str(error.code().name)
    status = str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
    return "" if status == "SERVING" else status


def _channel(target: str) -> grpc.Channel:
    path = os.environ.get("MSE_GRAD_TLS_CERTIFICATE")
    if not path:
        return grpc.insecure_channel(target)
    from cryptography import x509

    with open(path, "rb") as file:
        certificate = file.read()
    extensions = x509.load_pem_x509_certificate(certificate).extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    name = str(next(name.value for name in names)).replace("*", "host")
    options = [("grpc.ssl_target_name_override", name)]
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(certificate), options)


def _ask_ready(target: str) -> str:
    try:
        with urllib.request.urlopen(f"http://{target}/ready", timeout=_TIMEOUT_S):
            return ""
    except urllib.error.HTTPError as answer:
        with answer:
            return f"{answer.code} {answer.reason}"
    except OSError as error:
        return str(error)


if __name__ == "__main__":
    sys.exit(main())
