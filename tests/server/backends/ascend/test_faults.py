from __future__ import annotations

import pytest

from mse_grad_server.backends.ascend.faults import AclError, Fault, PlanError, fault_of


@pytest.mark.parametrize(
    ("codes", "fault"),
    [
        ((100000, 100002, 107000, 107001, 107002, 107003, 161001, 161002), Fault.CALLER),
        ((561000, 561001, 561002, 561003, 561107, 561112), Fault.CALLER),
        ((200000, 207001, 207018), Fault.MEMORY),
        ((507014, 507034, 507046, 507047), Fault.TIMEOUT),
        ((507015, 507016, 507035, 507036, 507042, 507043, 507044, 507045, 361001), Fault.EXECUTION),
        ((507010, 507053, 507054, 507055, 507899, 507901), Fault.DEVICE),
        ((1, -1, 999999), Fault.UNKNOWN),
    ],
)
def test_every_code_of_the_tables_says_what_has_to_happen(codes: tuple[int, ...], fault: Fault) -> None:
    assert {fault_of(code) for code in codes} == {fault}


def test_an_error_names_function_code_meaning_and_words() -> None:
    error = AclError("aclrtMalloc", 207001, "no 8 bytes are left")
    assert str(error) == "aclrtMalloc returned 207001 (out of memory): no 8 bytes are left"
    assert (error.function, error.code, error.fault) == ("aclrtMalloc", 207001, Fault.MEMORY)


def test_a_handle_that_is_missing_is_no_code() -> None:
    assert str(AclError("aclCreateTensor", 0, "")) == "aclCreateTensor gave nothing"


def test_a_plan_that_fails_is_told_from_a_device_that_fails() -> None:
    assert isinstance(PlanError("aclnnMseLossGradGetWorkspaceSize", 561002, ""), AclError)
