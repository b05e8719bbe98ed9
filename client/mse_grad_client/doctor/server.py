"""A server as this client sees it: from its name to a gradient."""

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
from mse_grad_client.address import grpc_target, host_and_port, worker_address
from mse_grad_client.client import MseGradClient
from mse_grad_client.credentials import Credentials
from mse_grad_client.doctor.finding import Finding, Level, error, ok, warning
from mse_grad_client.doctor.software import version_of
from mse_grad_client.doctor.tls import examine_tls, speaks_tls
from mse_grad_client.errors import MseGradError, Unauthenticated
from mse_grad_client.info import ServerInfo
from mse_grad_client.options import ClientOptions, RetryOptions

__all__ = ["examine_server"]

_IS_IT_RUNNING = "is mse-grad-server running there, with this --listen?"
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
_NO_PROXIES = ("no_grpc_proxy", "no_proxy")
_HEALTH = {b"\x08\x01": "SERVING", b"\x08\x02": "NOT_SERVING"}  # HealthCheckResponse, on the wire
_TIMEOUT_S = 5.0
_ELEMENTS = 1024
_CALLS = 20


def examine_server(address: str, options: ClientOptions) -> Iterator[Finding]:
    """Yields what there is to say of the server at `address`, up to the first error.

    Args:
        address: "host:port", "[ipv6]:port" or "unix:/path".
        options: How to reach it; `timeout_s` bounds each step.

    Raises:
        ValueError: `address` has none of these forms, or a token would go to another machine in the clear.
        MseGradError: A file of the options cannot be used.
    """
    credentials = Credentials(options, given=address)
    timeout_s = options.timeout_s or _TIMEOUT_S
    reached = _reach(address, timeout_s)
    yield reached
    if reached.level is Level.ERROR:
        return
    yield from _examine_proxy(address)
    if options.uses_tls and not address.startswith("unix:"):
        encrypted = examine_tls(address, options)
        yield encrypted
        if encrypted.level is Level.ERROR:
            return
    yield _examine_health(address, credentials, timeout_s)
    with MseGradClient(address, options=replace(options, retry=RetryOptions(max_attempts=1))) as client:
        try:
            info = client.server_info()
        except Unauthenticated as refusal:
            yield error("token", str(refusal), "--token-file names a file with a token that the server knows")
            return
        except MseGradError as failure:
            if not options.uses_tls and speaks_tls(address, timeout_s=timeout_s):
                yield error("TLS", "the server speaks it, and this client does not", "name its CA with --tls-ca")
            else:
                yield error("server", f"does not answer as an mse-grad server: {failure}", _IS_IT_RUNNING)
            return
        yield from _examine_info(info)
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
        return error("address", f"{host} is not resolved: {failure}", "check the name, or use the IP address")
    places = ", ".join(sorted({str(place[0]) for *_, place in found}))
    try:
        with socket.create_connection((host.strip("[]"), port), timeout_s):
            pass
    except OSError as failure:
        advice = f"{_IS_IT_RUNNING} Does a firewall let port {port} through? Does the container publish it?"
        return error("address", f"{address} ({places}) is not reached: {failure}", advice)
    return ok("address", f"{host} is {places}; port {port} takes connections")


def _reach_path(address: str, timeout_s: float) -> Finding:
    if sys.platform == "win32":
        return error("address", "this system has no unix sockets", "use the server's host and port")
    path = address.removeprefix("unix:").replace("//", "/", 1)
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return error("address", f"{path} is no socket", _IS_IT_RUNNING)
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(timeout_s)
            probe.connect(path)
    except PermissionError:
        return error("address", f"{path} may not be opened", "join the socket's group, or run as the server's user")
    except OSError as failure:
        return error("address", f"{path} is not reached: {failure}", _IS_IT_RUNNING)
    return ok("address", f"{path} takes connections")


def _examine_proxy(address: str) -> Iterator[Finding]:
    proxy = next((name for name in _PROXIES if os.environ.get(name)), None)
    if proxy is None or address.startswith("unix:") or any(os.environ.get(name) for name in _NO_PROXIES):
        return
    host = host_and_port(address)[0]
    yield warning("proxy", f"gRPC goes through {proxy}", f"where that is not meant, set no_proxy={host}")


def _examine_health(address: str, credentials: Credentials, timeout_s: float) -> Finding:
    with credentials.channel(address, grpc_target(address), [("grpc.use_local_subchannel_pool", 1)]) as channel:
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            health = _HEALTH.get(check(b"", timeout=timeout_s), "unknown")
        except grpc.RpcError as failure:
            return warning("health", f"is not told: {failure.details()}", "another service, or a proxy, may be there")
    if health == "SERVING":
        return ok("health", health)
    return warning("health", health, "the server starts, repairs its device or drains: its log says which")


def _examine_info(info: ServerInfo) -> Iterator[Finding]:
    own = version_of("mse-grad")
    told = f"{info.version}, {info.backend} ({info.device}), kernel {info.kernel_hash[:12]}"
    if info.version == own:
        yield ok("server", told)
    else:
        yield warning("server", f"{told}; this client is {own}", "use the same version on both sides")
    if not info.numerics.verified:
        yield warning("numerics", "not verified by the server", "wait until it is ready, then mse-grad verify ADDR")
    yield ok("transport", info.transport.replace("_", " "))


def _examine_workers(info: ServerInfo, address: str, timeout_s: float) -> Finding:
    states = [f"{at.device} is {at.state}" for at in info.endpoints if at.state != "ready"]
    count = len(info.endpoints)
    text = f"{count - len(states)} of {count} ready"
    if not info.ready:
        return error("workers", "; ".join((text, *states)), "the server's log says why")
    apart = [] if count == 1 else [at for at in info.endpoints if not _is_near(at.address, address, timeout_s)]
    if apart:
        away = f"{len(apart)} not reached from here, e.g. {apart[0].device} at {apart[0].address}"
        advice = "publish their ports; meanwhile requests go to the others, or through the address given"
        return warning("workers", "; ".join((text, *states, away)), advice)
    if states:
        return warning("workers", "; ".join((text, *states)), "they are used when they are ready; the log says more")
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
                return error("gradient", "differs from the formula", "mse-grad verify ADDR says where; do not use it")
    except MseGradError as failure:
        return error("gradient", str(failure), "the server's log has the details under the request's id")
    middle_ms, most_ms = statistics.median(times_s) * 1e3, max(times_s) * 1e3
    return ok("gradient", f"right; {_ELEMENTS} elements take {middle_ms:.2f} ms (median), {most_ms:.1f} ms (most)")


def _expected(predict: Array, label: Array, dout: Array) -> Array:
    y = np.empty_like(predict)
    gradient_into(y, predict, label, dout, c=coefficient(Reduction.MEAN, predict.size, FLOAT32), dtype=FLOAT32)
    return y
