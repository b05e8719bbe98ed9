"""The errors of the SDK, its options and its addresses."""

from __future__ import annotations

import inspect
import math
import pickle
import threading
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2

import mse_grad_client
from mse_grad.reasons import ContractError, Reason
from mse_grad_client import ClientOptions, MseGradError, RetryOptions, errors
from mse_grad_client.address import grpc_target
from mse_grad_client.retry import with_retries
from support.scripted_server import status_of

BUILTIN_BASES = {
    "InvalidArgument": ValueError,
    "DeadlineExceeded": TimeoutError,
    "Unavailable": ConnectionError,
    "Unimplemented": NotImplementedError,
    "PermissionDenied": PermissionError,
    "TlsFailed": ConnectionError,
    "Unauthenticated": PermissionError,
    "ClientClosed": RuntimeError,
    "InternalError": RuntimeError,
}


@pytest.mark.parametrize(("name", "base"), BUILTIN_BASES.items())
def test_an_error_is_also_the_python_error_that_one_would_expect(name: str, base: type[Exception]) -> None:
    assert issubclass(getattr(errors, name), base)


def test_every_error_class_is_public() -> None:
    found = {name for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, MseGradError)}
    assert found <= set(errors.__all__)
    assert found <= set(mse_grad_client.__all__)


def test_every_public_name_exists() -> None:
    for module in (mse_grad_client, errors):
        for name in module.__all__:
            assert hasattr(module, name), f"{module.__name__}.{name}"


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.value)
def test_a_status_keeps_reason_code_words_and_delay(reason: Reason) -> None:
    error = errors.from_status(status_of(reason, "the words", retry_delay_ms=1500), request_id="r-9")
    assert error.reason is reason
    assert error.code is reason.code
    assert type(error).code is reason.code
    assert error.message == "the words"
    assert error.retry_delay_s == pytest.approx(1.5)
    assert error.request_id == "r-9"
    assert str(error) == f"{reason.value}: the words (request r-9)"


@pytest.mark.parametrize("code", [3, 16, 12345])
def test_a_status_without_details_still_has_a_class(code: int) -> None:
    error = errors.from_status(status_pb2.Status(code=code, message="bare"))
    assert error.reason is None
    assert error.message == "bare"
    assert isinstance(error.code, grpc.StatusCode)


def test_a_reason_of_a_newer_server_keeps_the_class() -> None:
    status = status_of(Reason.SERVER_BUSY, "later")
    status.details[0].value = status.details[0].value.replace(b"SERVER_BUSY", b"SERVER_BUSU")
    error = errors.from_status(status)
    assert isinstance(error, mse_grad_client.ResourceExhausted)
    assert error.reason is None


def test_a_broken_rule_becomes_the_error_of_its_code() -> None:
    error = errors.from_contract_error(ContractError(Reason.NUMEL_INVALID, "numel", "numel is 5"))
    assert isinstance(error, mse_grad_client.InvalidArgument)
    assert error.reason is Reason.NUMEL_INVALID


def test_an_error_crosses_processes_whole() -> None:
    error = errors.from_status(status_of(Reason.SERVER_BUSY, "later", retry_delay_ms=20), request_id="r-1")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert copy.__dict__ == error.__dict__
    assert str(copy) == str(error)


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("127.0.0.1:50051", "dns:///127.0.0.1:50051"),
        ("localhost:1", "dns:///localhost:1"),
        ("[::1]:65535", "dns:///[::1]:65535"),
        ("mse-grad.example.com:443", "dns:///mse-grad.example.com:443"),
        ("unix:/run/mse-grad.sock", "unix:/run/mse-grad.sock"),
    ],
)
def test_an_address_has_a_target(address: str, target: str) -> None:
    assert grpc_target(address) == target


@pytest.mark.parametrize(
    "address", ["", "host", "host:", ":1", "host:0", "host:65536", "http://host:1", "unix:", "::1:5"]
)
def test_an_address_of_another_form_is_refused_with_the_forms_allowed(address: str) -> None:
    with pytest.raises(ValueError, match="it must be 'host:port'"):
        grpc_target(address)


@pytest.mark.parametrize(
    "wrong",
    [
        {"chunk_bytes": 7},
        {"window_chunks": 0},
        {"timeout_s": 0.0},
        {"timeout_s": math.inf},
        {"timeout_s": math.nan},
        {"keepalive_s": 1.0},
        {"max_unary_bytes": 0},
    ],
)
def test_an_option_out_of_range_is_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ClientOptions(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"max_attempts": 0}, {"initial_backoff_s": 0.0}, {"max_backoff_s": 0.01}])
def test_a_retry_option_out_of_range_is_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RetryOptions(**wrong)  # type: ignore[arg-type]


class Waits(threading.Event):
    """Time that passes at once; keeps how long each wait would have been."""

    def __init__(self) -> None:
        super().__init__()
        self.waits_s: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits_s.append(timeout)
        return self.is_set()


def failing(*failures: MseGradError):  # type: ignore[no-untyped-def]
    remaining = list(failures)

    def attempt() -> str:
        if remaining:
            raise remaining.pop(0)
        return "done"

    return attempt


def busy(retry_delay_ms: int = 0) -> MseGradError:
    return errors.from_status(status_of(Reason.SERVER_BUSY, "busy", retry_delay_ms=retry_delay_ms))


def test_waits_grow_up_to_their_bound() -> None:
    waits = Waits()
    options = RetryOptions(max_attempts=7, initial_backoff_s=0.1, max_backoff_s=1.0)
    assert with_retries(failing(*[busy()] * 6), options=options, deadline=None, closed=waits) == "done"
    for wait_s, bound_s in zip(waits.waits_s, [0.1, 0.2, 0.4, 0.8, 1.0, 1.0], strict=True):
        assert bound_s / 2 <= wait_s <= bound_s


def test_a_server_that_asks_for_a_longer_wait_gets_it() -> None:
    waits = Waits()
    assert with_retries(failing(busy(5000)), options=RetryOptions(), deadline=None, closed=waits) == "done"
    assert waits.waits_s == [5.0]


@pytest.mark.parametrize(
    "failures",
    [
        [busy()] * 6,
        [errors.InvalidArgument("wrong", reason=Reason.SHAPE_MISMATCH)],
        [errors.InternalError("broken")],
    ],
    ids=["attempts used up", "a wrong request", "a failed server"],
)
def test_an_error_is_raised_where_another_try_cannot_help(failures: list[MseGradError]) -> None:
    with pytest.raises(type(failures[-1])):
        with_retries(failing(*failures), options=RetryOptions(), deadline=None, closed=Waits())


def test_a_wait_that_would_pass_the_deadline_is_not_begun() -> None:
    waits = Waits()
    with pytest.raises(mse_grad_client.ResourceExhausted):
        with_retries(failing(busy(60_000)), options=RetryOptions(), deadline=0.0, closed=waits)
    assert waits.waits_s == []


def test_a_client_that_closes_stops_trying() -> None:
    waits = Waits()
    waits.set()
    with pytest.raises(mse_grad_client.ResourceExhausted):
        with_retries(failing(busy()), options=RetryOptions(), deadline=None, closed=waits)


class EndedRpc(grpc.RpcError):
    """An RPC that nobody answered."""

    def __init__(self, details: str) -> None:
        super().__init__(details)
        self._details = details

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> tuple[Any, ...]:
        return ()


# What gRPC says, word for word, of one version or another.
CONNECTING = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: "
HANDSHAKE = "Tls handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1000007d:SSL routines:OPENSSL_internal:"


@pytest.mark.parametrize(
    ("details", "words"),
    [
        (
            f"{HANDSHAKE}CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate: OK",
            ("not trusted (unable to get local issuer certificate)", "tls_ca"),
        ),
        (
            f"{HANDSHAKE}CERTIFICATE_VERIFY_FAILED: certificate has expired: OK",
            ("(certificate has expired)", "renewed"),
        ),
        (f"{HANDSHAKE}BAD_SIGNATURE: certificate signature failure: OK", ("not trusted", "tls_ca")),
        (f"{HANDSHAKE}WRONG_VERSION_NUMBER: Invalid certificate verification context: OK", ("does not speak TLS",)),
        (
            "Custom verification check failed with error: UNAUTHENTICATED: Hostname Verification Check failed.",
            ("names",),
        ),
        ("Peer name elsewhere is not in peer certificate", ("other names", "tls_server_name")),
        ("Failed to create security handshaker.", ("TLS with 127.0.0.1:1 failed", "security handshaker")),
    ],
)
def test_tls_that_failed_is_told_with_the_way_out(details: str, words: tuple[str, ...]) -> None:
    ended = EndedRpc(CONNECTING + details)
    error = errors.from_rpc_error(ended, address="127.0.0.1:1")
    assert isinstance(error, errors.TlsFailed)
    assert isinstance(error, ConnectionError)
    assert error.reason is Reason.TLS_FAILED
    assert [word for word in words if word not in error.message] == []


def test_a_connection_that_ends_at_once_may_want_tls() -> None:
    details = "failed to connect to all addresses; last error: UNAVAILABLE: ipv4:127.0.0.1:1: Socket closed"
    error = errors.from_rpc_error(EndedRpc(details), address="127.0.0.1:1")
    assert isinstance(error, errors.Unavailable)
    assert "tls_ca" in error.message
    lost = errors.from_rpc_error(EndedRpc("Socket closed"), address="127.0.0.1:1")
    assert "tls_ca" not in str(lost)
