from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from mse_grad.reasons import ERROR_DOMAIN, ContractError, Reason
from mse_grad_server import errors
from mse_grad_server.errors import (
    BackendError,
    DeviceUnavailable,
    Draining,
    InvalidArgument,
    NotReady,
    ServerBusy,
    ServerError,
    TooManyOpenRequests,
    to_status,
)


def detail(status: status_pb2.Status, kind: type[Any]) -> object:
    for packed in status.details:
        message = kind()
        if packed.Unpack(message):
            return message
    return None


def test_every_public_name_exists() -> None:
    assert set(errors.__all__) <= set(vars(errors))


@pytest.mark.parametrize("kind", [*ServerError.__subclasses__(), *errors.Refused.__subclasses__()])
def test_every_error_has_a_code_and_its_reason_travels(kind: type[ServerError]) -> None:
    error = (
        InvalidArgument("wrong", reason=Reason.SHAPE_INVALID, field="label")
        if kind is InvalidArgument
        else kind("the message")
    )
    status = to_status(error, request_id="r-1")
    assert status.code == error.reason.code.value[0]
    assert error.reason.code is not grpc.StatusCode.OK
    info = detail(status, error_details_pb2.ErrorInfo)
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain, dict(info.metadata)) == (error.reason.value, ERROR_DOMAIN, {"request_id": "r-1"})


def test_a_broken_rule_names_its_field_in_bad_request() -> None:
    error = ContractError(Reason.SHAPE_MISMATCH, "label", "predict has shape [2], label has [3]; they must be equal")
    status = to_status(error, request_id="r-1")
    assert status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert status.message == "predict has shape [2], label has [3]; they must be equal"
    bad_request = detail(status, error_details_pb2.BadRequest)
    assert isinstance(bad_request, error_details_pb2.BadRequest)
    assert [violation.field for violation in bad_request.field_violations] == ["label"]


@pytest.mark.parametrize("kind", [ServerBusy, TooManyOpenRequests, NotReady, Draining, DeviceUnavailable])
def test_a_refusal_says_when_to_retry(kind: type[errors.Refused]) -> None:
    retry = detail(to_status(kind("busy"), request_id=""), error_details_pb2.RetryInfo)
    assert isinstance(retry, error_details_pb2.RetryInfo)
    assert 0 < retry.retry_delay.ToMilliseconds() == 1000 * (kind("busy").retry_after_s or 0)


def test_an_error_that_a_retry_cannot_mend_has_no_retry_info() -> None:
    status = to_status(errors.MessageTooLarge("too large"), request_id="")
    assert detail(status, error_details_pb2.RetryInfo) is None


@pytest.mark.parametrize("error", [RuntimeError("secret /path"), KeyError("secret"), BackendError("secret pointer")])
def test_internal_details_do_not_reach_the_caller(error: Exception) -> None:
    status = to_status(error, request_id="r-7")
    assert status.code == grpc.StatusCode.INTERNAL.value[0]
    assert "secret" not in str(status)
    assert "r-7" in status.message


def test_a_lack_of_memory_is_no_failure_of_the_server_and_may_be_tried_again() -> None:
    status = to_status(MemoryError("of malloc"), request_id="mine")
    info = detail(status, error_details_pb2.ErrorInfo)
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert (info.reason, status.code) == ("SERVER_BUSY", grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])
    assert "no memory left" in status.message
    assert "malloc" not in status.message
    retry = detail(status, error_details_pb2.RetryInfo)
    assert isinstance(retry, error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToMilliseconds() == 100


def test_the_metrics_count_a_lack_of_memory_like_its_answer() -> None:
    assert errors.reason_of(MemoryError("of malloc")) is Reason.SERVER_BUSY
