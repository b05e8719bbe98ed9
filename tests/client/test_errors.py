"""The errors of the SDK, its options and its addresses."""

from __future__ import annotations

import inspect
import math
import pathlib
import pickle
import re
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2

import mse_grad_client
from mse_grad.reasons import ContractError, Reason
from mse_grad_client import ClientOptions, MseGradClient, MseGradError, RetryOptions, errors
from mse_grad_client.routing.address import grpc_target
from mse_grad_client.stream.call import EndedCall
from support.client.scripted_server import ScriptedServer, status_of

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


# Only callers of the Open Inference Protocol name a model.
OUR_REASONS = [reason for reason in Reason if reason is not Reason.MODEL_UNKNOWN]


@pytest.mark.parametrize("reason", OUR_REASONS, ids=lambda reason: reason.value)
def test_a_status_keeps_reason_code_message_and_delay(reason: Reason) -> None:
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
    "address",
    [
        "",
        "h\0:1",
        "unix:/a\0b",
        "h\ud800:1",
        "unix:/\ud800",
        "host",
        "host:",
        ":1",
        "host:0",
        "host:65536",
        "http://host:1",
        "unix:",
        "::1:5",
    ],
)
def test_an_address_of_another_form_is_refused_with_the_forms_allowed(address: str) -> None:
    with pytest.raises(ValueError, match="it must be 'host:port'"):
        grpc_target(address)


@pytest.mark.parametrize("address", [("host", 1), ("host:1", 1), pathlib.Path("/run/a.sock"), b"host:1", None, 50051])
@pytest.mark.parametrize("options", [{}, {"shared_memory": False}, {"tls": True}, {"token": "abc"}], ids=str)
def test_an_address_that_is_no_text_is_refused_with_the_forms_allowed(address: Any, options: dict[str, Any]) -> None:
    wrong = {("host", 1): "host", ("host:1", 1): 1}.get(address, address)  # the first wrong entry of a list
    with pytest.raises(ValueError, match=re.escape(f"address is {wrong!r}; it must be 'host:port', '[ipv6]:port', ")):
        MseGradClient(address, options=ClientOptions(**options))


@pytest.mark.parametrize("options", [{"timeout_s": 1}, RetryOptions(), 5.0, ""])
def test_options_of_another_kind_are_refused(options: Any) -> None:
    with pytest.raises(ValueError, match=f"options is a {type(options).__name__}; it must be ClientOptions"):
        MseGradClient("host:1", options=options)


# Each option is checked at once, not when the first call uses it.
NO_COUNTS = (-1, 1.5, 2.0, math.nan, "9", True, 2**64, np.timedelta64(50_000, "s"))
NO_TIMES = (0, -1.0, math.nan, math.inf, 3e9, 10**400, "9", True, [9.0], 1j, np.timedelta64(50, "s"))
NO_PATHS = (b"ca.pem", 5, "a\0b", ["ca.pem"], pathlib.PurePath)
NO_FLAGS = (None, 1, "no")
WRONG: list[tuple[str, Any]] = [
    *[("chunk_bytes", wrong) for wrong in (0, 7, *NO_COUNTS)],
    *[("window_chunks", wrong) for wrong in (0, 2**31, *NO_COUNTS)],
    *[("timeout_s", wrong) for wrong in NO_TIMES],
    *[("keepalive_s", wrong) for wrong in (1.0, 9.9, 2_147_484, 3e6, None, *NO_TIMES)],
    *[("max_stream_age_s", wrong) for wrong in NO_TIMES],
    *[(name, wrong) for name in ("resolve", "open_channel") for wrong in (5, "10.0.0.1:1", ["10.0.0.1:1"])],
    *[("max_unary_bytes", wrong) for wrong in (0, 1023, 2**31, None, *NO_COUNTS)],
    *[("shared_from_bytes", wrong) for wrong in (None, *NO_COUNTS)],
    *[("copied_from_bytes", wrong) for wrong in (None, *NO_COUNTS)],
    *[("retry", wrong) for wrong in (None, 3, {"max_attempts": 3})],
    *[(name, wrong) for name in ("all_workers", "shared_memory", "tls", "insecure_token") for wrong in NO_FLAGS],
    *[(name, wrong) for name in ("tls_ca", "tls_certificate", "tls_key", "token_file") for wrong in NO_PATHS],
    *[("tls_server_name", wrong) for wrong in (None, b"host", 5)],
]


@pytest.mark.parametrize(("name", "wrong"), WRONG, ids=repr)
def test_an_option_out_of_range_is_named_with_its_value(name: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{name} is {wrong!r}; it must be ")):
        ClientOptions(**{name: wrong})


def test_an_option_too_large_for_python_to_print_is_named() -> None:
    with pytest.raises(ValueError, match="chunk_bytes is an integer of 16610 bits; it must be a whole number"):
        ClientOptions(chunk_bytes=10**5000)


@pytest.mark.parametrize("token", [None, b"secret", ["secret"]])
def test_a_token_that_is_no_text_is_refused_and_not_shown(token: Any) -> None:
    with pytest.raises(ValueError, match=f"token is a {type(token).__name__}; it must be a str") as caught:
        ClientOptions(token=token)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *[("max_attempts", wrong) for wrong in (0, 2**31, *NO_COUNTS)],
        *[("patience_s", wrong) for wrong in (None, *NO_TIMES)],
        *[("max_per_s", wrong) for wrong in (None, 1e7, *NO_TIMES)],
        *[("initial_backoff_s", wrong) for wrong in (None, 5.0, *NO_TIMES)],
        *[("max_backoff_s", wrong) for wrong in (None, 0.01, *NO_TIMES)],
    ],
    ids=repr,
)
def test_a_retry_option_out_of_range_is_named_with_its_value(name: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{name} is {wrong!r}")):
        RetryOptions(**{name: wrong})


def test_the_largest_values_of_all_options_make_a_client_that_computes() -> None:
    most = ClientOptions(
        chunk_bytes=2**63 - 1,
        window_chunks=2**31 - 1,
        timeout_s=1e9,
        keepalive_s=2**31 // 1000 - 1,
        max_unary_bytes=2**31 - 1,
        shared_from_bytes=2**63 - 1,
        copied_from_bytes=2**63 - 1,
        retry=RetryOptions(
            max_attempts=2**31 - 1, initial_backoff_s=1e9, max_backoff_s=1e9, patience_s=1e9, max_per_s=1e6
        ),
    )
    with ScriptedServer() as server, MseGradClient(server.address, options=most) as client:
        np.testing.assert_array_equal(client.compute([2.0], [1.0], 1.0), [2.0])


@pytest.mark.parametrize("seconds", [10**18, -5])
def test_a_delay_longer_than_any_thread_can_wait_is_bounded(seconds: int) -> None:
    status = status_of(Reason.SERVER_BUSY, "busy")
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.seconds = seconds
    status.details.add().Pack(retry)
    assert errors.from_status(status).retry_delay_s == (1e9 if seconds > 0 else 0.0)


class EndedRpc(grpc.RpcError):
    """An RPC that no server answered."""

    def __init__(self, details: str) -> None:
        super().__init__(details)
        self._details = details

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> tuple[Any, ...]:
        return ()


# gRPC's messages, word for word, from different versions.
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
        ("call host does not match SSL server name", ("other names", "tls_server_name")),
        ("Failed to create security handshaker.", ("tls_ca", "tls_key", "P-256")),
        (f"{HANDSHAKE}NO_COMMON_SIGNATURE_ALGORITHMS: OK", ("tls_key", "P-256")),
        ("Tls handshake failed (TSI_INTERNAL)", ("TLS with 127.0.0.1:1 failed", "TSI_INTERNAL")),
    ],
)
def test_a_tls_failure_is_reported_with_its_remedy(details: str, words: tuple[str, ...]) -> None:
    ended = EndedRpc(CONNECTING + details)
    error = errors.from_rpc_error(ended, address="127.0.0.1:1")
    assert isinstance(error, errors.TlsFailed)
    assert isinstance(error, ConnectionError)
    assert error.reason is Reason.TLS_FAILED
    assert [word for word in words if word not in error.message] == []


def test_a_name_that_grpc_reports_as_the_callers_mistake_is_a_certificate_error_too() -> None:
    ended = EndedCall(grpc.StatusCode.UNAUTHENTICATED, "call host does not match SSL server name")
    error = errors.from_rpc_error(ended, address="127.0.0.1:1")
    assert isinstance(error, errors.TlsFailed)
    assert "tls_server_name" in error.message
    refused = errors.from_rpc_error(EndedCall(grpc.StatusCode.UNAUTHENTICATED, "who?"), address="127.0.0.1:1")
    assert isinstance(refused, errors.Unauthenticated)


def test_a_connection_that_ends_at_once_may_need_tls() -> None:
    details = "failed to connect to all addresses; last error: UNAVAILABLE: ipv4:127.0.0.1:1: Socket closed"
    error = errors.from_rpc_error(EndedRpc(details), address="127.0.0.1:1")
    assert isinstance(error, errors.Unavailable)
    assert "tls_ca" in error.message
    lost = errors.from_rpc_error(EndedRpc("Socket closed"), address="127.0.0.1:1")
    assert "tls_ca" not in str(lost)


# gRPC's words for an RST_STREAM from a proxy, by version.
@pytest.mark.parametrize(
    "details",
    [
        "Stream removed (RST_STREAM (Received RST_STREAM with error code 2))",
        "Received RST_STREAM with error code 0",
    ],
)
def test_a_call_that_a_proxy_resets_has_lost_its_connection(details: str) -> None:
    error = errors.from_rpc_error(EndedCall(grpc.StatusCode.INTERNAL, details), address="127.0.0.1:1")
    assert isinstance(error, errors.Unavailable)
    assert error.reason is Reason.CONNECTION_LOST
    failed = errors.from_rpc_error(EndedCall(grpc.StatusCode.INTERNAL, "it failed"), address="127.0.0.1:1")
    assert isinstance(failed, errors.InternalError)
