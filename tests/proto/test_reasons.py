from __future__ import annotations

import grpc
import pytest

from mse_grad.reasons import ERROR_DOMAIN, ContractError, Reason, code_of

# The texts on the wire, which clients in other languages depend on: a change here breaks them.
TABLE = {
    "DTYPE_UNKNOWN": ("INVALID_ARGUMENT", False),
    "DTYPE_MISMATCH": ("INVALID_ARGUMENT", False),
    "RANK_TOO_HIGH": ("INVALID_ARGUMENT", False),
    "SHAPE_INVALID": ("INVALID_ARGUMENT", False),
    "SHAPE_MISMATCH": ("INVALID_ARGUMENT", False),
    "DOUT_SHAPE_MISMATCH": ("INVALID_ARGUMENT", False),
    "REDUCTION_UNKNOWN": ("INVALID_ARGUMENT", False),
    "NUMEL_INVALID": ("INVALID_ARGUMENT", False),
    "TENSORS_INVALID": ("INVALID_ARGUMENT", False),
    "BYTE_COUNT_MISMATCH": ("INVALID_ARGUMENT", False),
    "MODEL_UNKNOWN": ("NOT_FOUND", False),
    "INPUTS_INVALID": ("INVALID_ARGUMENT", False),
    "PARAMETER_INVALID": ("INVALID_ARGUMENT", False),
    "NOT_OFFERED": ("UNIMPLEMENTED", False),
    "OPERAND_UNSUPPORTED": ("INVALID_ARGUMENT", False),
    "OUT_NOT_WRITABLE": ("INVALID_ARGUMENT", False),
    "MESSAGE_MALFORMED": ("INVALID_ARGUMENT", False),
    "REQUEST_ID_INVALID": ("INVALID_ARGUMENT", False),
    "REQUEST_ID_UNKNOWN": ("INVALID_ARGUMENT", False),
    "CHUNK_OUT_OF_ORDER": ("INVALID_ARGUMENT", False),
    "CHUNK_OUT_OF_RANGE": ("INVALID_ARGUMENT", False),
    "SHARED_MEMORY_DENIED": ("PERMISSION_DENIED", False),
    "SHARED_MEMORY_UNUSABLE": ("INVALID_ARGUMENT", False),
    "SHARED_MEMORY_FULL": ("RESOURCE_EXHAUSTED", False),
    "SEGMENT_UNKNOWN": ("INVALID_ARGUMENT", False),
    "SHARED_RANGE_INVALID": ("INVALID_ARGUMENT", False),
    "DIRECT_DENIED": ("PERMISSION_DENIED", False),
    "DIRECT_FULL": ("RESOURCE_EXHAUSTED", False),
    "TOKEN_MISSING": ("UNAUTHENTICATED", False),
    "TOKEN_UNKNOWN": ("UNAUTHENTICATED", False),
    "TOKEN_REMOVED": ("UNAVAILABLE", True),
    "SCOPE_MISSING": ("PERMISSION_DENIED", False),
    "TLS_FAILED": ("UNAVAILABLE", False),
    "DTYPE_NOT_ON_BACKEND": ("UNIMPLEMENTED", False),
    "MESSAGE_TOO_LARGE": ("RESOURCE_EXHAUSTED", False),
    "TOO_MANY_OPEN_REQUESTS": ("RESOURCE_EXHAUSTED", True),
    "SERVER_BUSY": ("RESOURCE_EXHAUSTED", True),
    "QUOTA_EXCEEDED": ("RESOURCE_EXHAUSTED", True),
    "NOT_READY": ("UNAVAILABLE", True),
    "DRAINING": ("UNAVAILABLE", True),
    "DEVICE_UNAVAILABLE": ("UNAVAILABLE", True),
    "CONNECTION_LOST": ("UNAVAILABLE", True),
    "DEADLINE_EXCEEDED": ("DEADLINE_EXCEEDED", False),
    "CANCELLED": ("CANCELLED", False),
    "INTERNAL": ("INTERNAL", False),
}


def test_every_reason_has_its_code_and_says_whether_a_retry_helps() -> None:
    assert {reason.value: (reason.code.name, reason.retryable) for reason in Reason} == TABLE


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.name)
def test_the_text_that_travels_is_the_name_of_the_reason(reason: Reason) -> None:
    assert reason.value == reason.name
    assert Reason.__members__[reason.value] is reason


def test_only_temporary_states_of_a_server_are_retryable() -> None:
    retryable = {reason.code for reason in Reason if reason.retryable}
    assert retryable == {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE}


def test_the_domain_is_the_package_of_the_contract() -> None:
    assert ERROR_DOMAIN == "mse_grad.v1"


def test_a_contract_error_carries_reason_field_and_message() -> None:
    error = ContractError(Reason.RANK_TOO_HIGH, "label", "label has 9 dimensions")
    assert isinstance(error, ValueError)
    assert (error.reason, error.field, str(error)) == (Reason.RANK_TOO_HIGH, "label", "label has 9 dimensions")


def test_every_number_has_a_code() -> None:
    assert [code_of(code.value[0]) for code in grpc.StatusCode] == list(grpc.StatusCode)
    assert code_of(99) is grpc.StatusCode.UNKNOWN
