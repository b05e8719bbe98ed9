from __future__ import annotations

import pytest

from mse_grad_server.backends.ascend.acl.error_codes import AclError, Fault, PlanError, fault_of
from mse_grad_server.backends.ascend.startup.diagnosis import START_CODES


@pytest.mark.parametrize(
    ("codes", "fault"),
    [
        ((100000, 100002, 107000, 107001, 107002, 107003, 107006, 107007, 161001, 161002), Fault.CALLER),
        ((207000, 207003, 207016, 207017), Fault.CALLER),
        ((561000, 561001, 561002, 561003, *range(561101, 561120)), Fault.CALLER),
        ((200000, 207001, 207018, 507002), Fault.MEMORY),
        ((507014, 507034, 507046, 507047, 507048), Fault.TIMEOUT),
        ((507015, 507016, 507035, 507036, 507042, 507043, 507044, 507045, 361001), Fault.EXECUTION),
        ((507049, 507050), Fault.EXECUTION),
        ((507010, 507053, 507054, 507055, 507899, 507901), Fault.DEVICE),
        ((1, -1, 999999), Fault.UNKNOWN),
    ],
)
def test_every_code_of_the_tables_has_its_kind_of_fault(codes: tuple[int, ...], fault: Fault) -> None:
    assert {fault_of(code) for code in codes} == {fault}


@pytest.mark.parametrize("code", [code for codes in START_CODES for code in codes])
def test_a_code_that_explains_a_start_has_a_name(code: int) -> None:
    assert "a code not in the tables" not in str(AclError("aclInit", code, ""))


def test_an_error_names_function_code_meaning_and_message() -> None:
    error = AclError("aclrtMalloc", 207001, "no 8 bytes are left")
    assert str(error) == "aclrtMalloc returned 207001 (out of memory): no 8 bytes are left"
    assert (error.function, error.code, error.fault) == ("aclrtMalloc", 207001, Fault.MEMORY)


def test_a_null_handle_has_no_code() -> None:
    assert str(AclError("aclCreateTensor", 0, "")) == "aclCreateTensor gave nothing"


def test_a_plan_that_fails_is_distinguished_from_a_device_that_fails() -> None:
    assert isinstance(PlanError("aclnnMseLossGradGetWorkspaceSize", 561002, ""), AclError)
