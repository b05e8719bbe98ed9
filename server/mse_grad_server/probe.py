"""The command `mse-grad-server probe`: a health check of the server that the same settings describe.

It asks grpc.health.v1 at the address of the service, which all workers share. With TLS it trusts the server's own
certificate and no other. It has no client certificate to show, so with mTLS it asks /ready on the metrics port instead.
"""

from __future__ import annotations

import argparse
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence

from mse_grad_server.process.environment import set_grpc_environment
from mse_grad_server.process.exits import ExitCode, StartError
from mse_grad_server.process.log import complain
from mse_grad_server.settings.address import Address
from mse_grad_server.settings.model import Settings
from mse_grad_server.settings.sources import parse_command

__all__ = ["run"]

# Shorter than the time-outs of the probes in Dockerfile and compose, so that the reason is printed.
_TIMEOUT_S = 3.0
# The server is on this host, so the proxies of the environment do not apply.
_NO_PROXY = ("grpc.enable_http_proxy", 0)
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound


class _NotServing(Exception):
    """The server does not accept requests; the message says why."""


def run(arguments: Sequence[str]) -> ExitCode:
    """Probes the server once and prints one line on stderr if it does not serve; returns OK or FAILED.

    Args:
        arguments: Flags of the server.
    """
    parser = argparse.ArgumentParser(
        prog="mse-grad-server probe",
        usage="%(prog)s [flags of mse-grad-server]",
        description="Asks the running server whether it accepts requests. Exits with 0 if it does, else with 1 and "
        "one line on stderr.",
        epilog="Give it the server's flags. It also reads the server's variables and YAML file.",
        allow_abbrev=False,
    )
    _, flags = parser.parse_known_args(arguments)
    try:
        _probe(parse_command(flags).settings)
    except (StartError, _NotServing) as error:
        complain(f"probe: {'; '.join(str(error).splitlines())}")
        return ExitCode.FAILED
    return ExitCode.OK


def _probe(settings: Settings) -> None:
    if not settings.tls_client_ca:
        _ask_health(settings)
    elif settings.metrics_listen != "none":
        _ask_ready(_reachable(settings.metrics_listen), certificate=settings.tls_certificate * settings.metrics_tls)
    else:
        raise _NotServing(
            "the server requires client certificates and has no --metrics-listen, so it cannot be probed; give it a "
            "--metrics-listen"
        )


def _reachable(listen: str) -> Address:
    """Returns the address at which a client on this host reaches `listen`."""
    address = Address.parse(listen)
    if not address.path and not address.port:
        raise _NotServing(f"{listen} leaves the port to the system; a server needs a fixed port to be probed")
    return Address(_LOOPBACK.get(address.host, address.host), address.port, address.path)


def _ask_health(settings: Settings) -> None:
    address = _reachable(settings.listen)
    set_grpc_environment(settings.grpc_experiments)
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    credentials = None
    options: list[tuple[str, str | int]] = [_NO_PROXY]
    if settings.tls_certificate:
        from mse_grad_server.security.certificates import read_certificates
        from mse_grad_server.security.credentials import CredentialFiles

        certificates = read_certificates(CredentialFiles.of(settings))
        credentials = grpc.ssl_channel_credentials(certificates.chain)
        options.append(("grpc.ssl_target_name_override", certificates.name))
    channel = (
        grpc.insecure_channel(address.target, options)
        if credentials is None
        else grpc.secure_channel(address.target, credentials, options)
    )
    try:
        with channel:
            request = health_pb2.HealthCheckRequest()
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=_TIMEOUT_S)
    except grpc.RpcError as error:
        raise _NotServing(f"{address}: {error.code().name}: {error.details()}") from error
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    if status != "SERVING":
        raise _NotServing(f"{address}: {status}")


def _ask_ready(address: Address, *, certificate: str) -> None:
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    try:
        if certificate:
            handlers.append(urllib.request.HTTPSHandler(context=_trusting(certificate)))
        opener = urllib.request.build_opener(*handlers)
        opener.open(f"http{'s' if certificate else ''}://{address}/ready", timeout=_TIMEOUT_S).close()
    except urllib.error.HTTPError as answer:
        with answer:
            raise _NotServing(f"{address}: {answer.code} {answer.reason}") from answer
    except OSError as error:
        raise _NotServing(f"{address}: {error}") from error


def _trusting(certificate: str) -> ssl.SSLContext:
    """Returns a context that trusts the server's own certificate chain, whatever its names and extensions."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certificate)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    return context
