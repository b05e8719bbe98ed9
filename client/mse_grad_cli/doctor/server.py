"""Checks of a server as this client reaches it, from its name to a gradient."""

from __future__ import annotations

import os
import socket
import stat
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import grpc
import numpy as np

from mse_grad.formula import coefficient, gradient_into
from mse_grad.tensor import FLOAT32, Array, Reduction
from mse_grad.version import VERSION
from mse_grad_cli.doctor.finding import Finding, Level, error, ok, warning
from mse_grad_cli.doctor.tls import examine_tls, speaks_tls
from mse_grad_cli.health import SERVING, health_of
from mse_grad_client.client import MseGradClient
from mse_grad_client.errors import MseGradError, Unauthenticated
from mse_grad_client.options import ClientOptions, RetryOptions
from mse_grad_client.routing.address import host_and_port, worker_address
from mse_grad_client.routing.credentials import Credentials
from mse_grad_client.routing.proxy import proxy_of
from mse_grad_client.server_info import ServerInfo

__all__ = ["examine_server"]

_IS_IT_RUNNING = "is mse-grad-server running there, with this address as --listen?"
_OPEN_THE_PORT = (
    "until there is a direct connection, requests use the slower stream. Let clients reach that port on this very "
    "server: open it in firewalls, publish it from a container under the same number (--direct-listen sets the "
    "number), and put no load balancer in between. Or start the server with --direct-listen none"
)
_TIMEOUT_S = 5.0
_ELEMENTS = 1024
_CALLS = 20


def examine_server(address: str, options: ClientOptions) -> Iterator[Finding]:
    """Yields the findings about the server at `address`, up to the first error.

    Args:
        address: "host:port", "[ipv6]:port" or "unix:/path".
        options: How to reach it; `timeout_s` bounds each step.

    Raises:
        ValueError: `address` has none of these forms, or a token would go to another machine unencrypted.
        MseGradError: A file of the options cannot be used.
    """
    credentials = Credentials(options, given=address)
    timeout_s = options.timeout_s or _TIMEOUT_S
    proxy = proxy_of(address)
    reached = _reach(address if proxy is None else proxy.address, timeout_s)
    yield reached
    if reached.level is Level.ERROR:
        return
    if proxy is not None:
        host = host_and_port(address)[0].strip("[]")
        yield warning("proxy", f"gRPC goes through {proxy}", f"if you do not want that, set no_proxy={host}")
    elif options.uses_tls and not address.startswith("unix:"):
        encrypted = examine_tls(address, options)
        yield encrypted
        if encrypted.level is Level.ERROR:
            return
    health = _examine_health(address, credentials, timeout_s)
    is_plain = proxy is None and not options.uses_tls
    if health.level is not Level.OK and is_plain and speaks_tls(address, timeout_s=timeout_s):
        yield error("TLS", "the server uses TLS, and this client does not", "name its CA with --tls-ca")
        return
    yield health
    with MseGradClient(address, options=replace(options, retry=RetryOptions(max_attempts=1))) as client:
        try:
            info = client.server_info()
        except Unauthenticated as refusal:
            yield error("token", str(refusal), "name a file with a token that the server knows, with --token-file")
            return
        except MseGradError as failure:
            yield error("server", f"does not answer as an mse-grad server: {failure}", _IS_IT_RUNNING)
            return
        yield from _examine_info(info)
        yield _examine_transport(info, address, is_proxied=proxy is not None)
        yield _examine_workers(info, address, timeout_s)
        if info.ready:
            yield _examine_gradient(client)


def _reach(address: str, timeout_s: float) -> Finding:
    if address.startswith("unix:"):
        return _reach_path(address, timeout_s)
    host, port = host_and_port(address)
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except OSError as failure:
        return error("address", f"cannot resolve {host}: {failure}", "check the name, or use the IP address")
    places = ", ".join(sorted({str(place[0]) for *_, place in found}))
    try:
        with socket.create_connection((host.strip("[]"), port), timeout_s):
            pass
    except OSError as failure:
        advice = f"{_IS_IT_RUNNING} Does a firewall let port {port} through? Does the container publish it?"
        return error("address", f"cannot connect to {address} ({places}): {failure}", advice)
    return ok("address", f"{host} is {places}; port {port} accepts connections")


def _reach_path(address: str, timeout_s: float) -> Finding:
    if sys.platform == "win32":
        return error("address", "this system has no unix sockets", "use the server's host and port")
    path = address.removeprefix("unix:").replace("//", "/", 1)
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return error("address", f"{path} is not a socket", _IS_IT_RUNNING)
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(timeout_s)
            probe.connect(path)
    except PermissionError:
        return error("address", f"no permission to open {path}", "join the socket's group, or run as the server's user")
    except OSError as failure:
        return error("address", f"cannot connect to {path}: {failure}", _IS_IT_RUNNING)
    return ok("address", f"{path} accepts connections")


def _examine_health(address: str, credentials: Credentials, timeout_s: float) -> Finding:
    try:
        health = health_of(address, credentials, timeout_s=timeout_s)
    except grpc.RpcError as failure:
        return warning("health", f"no answer: {failure.details()}", "another service or a proxy may listen there")
    if health == SERVING:
        return ok("health", health)
    return warning("health", health, "the server is starting, repairing its device or draining; see its log")


def _examine_info(info: ServerInfo) -> Iterator[Finding]:
    own = VERSION
    summary = f"{info.version}, {info.backend} ({info.device}), kernel {info.kernel_hash[:12]}"
    if info.version == own:
        yield ok("server", summary)
    else:
        yield warning("server", f"{summary}; this client is {own}", "use the same version on both sides")
    if not info.numerics.verified:
        yield warning("numerics", "not verified by the server", "wait until it is ready, then run mse-grad verify ADDR")


def _examine_transport(info: ServerInfo, address: str, *, is_proxied: bool) -> Finding:
    text = info.transport.replace("_", " ")
    if info.direct_failure:
        text = f"{text}; no direct connection: {info.direct_failure}"
        return ok("transport", text) if is_proxied else warning("transport", text, _OPEN_THE_PORT)
    if info.transport == "stream" and not address.startswith("unix:"):
        text = f"{text}; the server offers no direct connection"
    return ok("transport", text)


def _examine_workers(info: ServerInfo, address: str, timeout_s: float) -> Finding:
    states = [f"{at.device} is {at.state}" for at in info.endpoints if at.state != "ready"]
    count = len(info.endpoints)
    text = f"{count - len(states)} of {count} ready"
    if not info.ready:
        return error("workers", "; ".join((text, *states)), "see the server's log")
    apart = [] if count == 1 else [at for at in info.endpoints if not _is_near(at.address, address, timeout_s)]
    if apart:
        away = f"{len(apart)} unreachable from here, e.g. {apart[0].device} at {apart[0].address}"
        advice = "publish their ports; until then requests go to the others or through the given address"
        return warning("workers", "; ".join((text, *states, away)), advice)
    if states:
        return warning("workers", "; ".join((text, *states)), "they serve once they are ready; see the server's log")
    return ok("workers", text)


def _is_near(named: str, given: str, timeout_s: float) -> bool:
    address = worker_address(named, given=given)
    return address is not None and _reach(address, timeout_s).level is Level.OK


def _examine_gradient(client: MseGradClient) -> Finding:
    random = np.random.default_rng(0)
    predict, label, dout = (random.standard_normal(_ELEMENTS).astype(np.float32) for _ in range(3))
    times_s = []
    try:
        for _ in range(_CALLS):
            start = time.perf_counter()
            y = client.compute(predict, label, dout)
            times_s.append(time.perf_counter() - start)
            if not np.array_equal(y, _expected(predict, label, dout)):
                return error("gradient", "differs from the formula", "do not use it; mse-grad verify ADDR shows more")
    except MseGradError as failure:
        return error("gradient", str(failure), "the server's log has the details under the request's id")
    middle_ms, most_ms = statistics.median(times_s) * 1e3, max(times_s) * 1e3
    return ok("gradient", f"correct; {_ELEMENTS} elements take {middle_ms:.2f} ms (median), {most_ms:.1f} ms (maximum)")


def _expected(predict: Array, label: Array, dout: Array) -> Array:
    y = np.empty_like(predict)
    gradient_into(y, predict, label, dout, c=coefficient(Reduction.MEAN, predict.size, FLOAT32), dtype=FLOAT32)
    return y
