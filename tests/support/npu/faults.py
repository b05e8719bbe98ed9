"""Faults of a device: the calls on the path of a block, the codes, and the ways in which a fault shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

__all__ = ["ASKING", "CALLS", "CODES", "ONE_CODE_A_CLASS", "PLANNING", "QUEUEING", "rules"]

QUEUEING = ("aclrtMemcpyAsync", "aclrtRecordEvent", "aclrtStreamWaitEvent", "aclnnMseLossGradPart")
"""A device may fail later on the work that these calls queue."""
ASKING = (
    "aclrtQueryEventStatus",
    "aclrtSynchronizeEventWithTimeout",
    "aclrtSynchronizeStreamWithTimeout",
    "aclrtEventElapsedTime",
)
PLANNING = (
    "aclnnMseLossGradPartGetWorkspaceSize",
    "aclCreateTensor",
    "aclSetAclOpExecutorRepeatable",
    "aclSetInputTensorAddr",
    "aclSetOutputTensorAddr",
)
"""Called once for each kind of launch."""
CALLS = (*QUEUEING, *ASKING, *PLANNING)

CODES = (
    100000, 100002, 107000, 107001, 107002, 107003, 107006, 107007,
    200000, 207000, 207001, 207003, 207016, 207017, 207018,
    507002, 507014, 507034, 507046, 507047, 507048,
    507015, 507016, 507035, 507036, 507042, 507043, 507044, 507045, 507049, 507050,
    507010, 507053, 507054, 507055, 507899, 507901,
    161001, 161002, 361001, 561000, 561001, 561002, 561003, 561101, 561107, 561108, 561112, 561113,
    999999,
)  # fmt: skip
"""Codes of every kind that the tables of the runtime and of aclnn have, and one that no table names."""
ONE_CODE_A_CLASS = (107000, 207001, 507046, 507015, 507899, 999999)


def rules(call: str, code: int, words: str) -> Iterator[str]:
    """Yields a fault of `call` for each way in which it can show.

    Args:
        call: One of CALLS.
        code: The code that is returned, or shows later.
        words: When and how often; see tests/simulator/src/acl/faults.h.
    """
    modes: Sequence[str] = ("return", "async", "poison", "lose") if call in QUEUEING else ("return",)
    for mode in modes:
        yield f"{call} code={code} mode={mode} {words}"
