"""What can go wrong with a device: the calls of a block's way, the codes, and how a fault shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

__all__ = ["ASKING", "CALLS", "CODES", "ONE_CODE_A_CLASS", "PLANNING", "QUEUEING", "rules"]

QUEUEING = ("aclrtMemcpyAsync", "aclrtRecordEvent", "aclrtStreamWaitEvent", "aclnnMseLossGrad", "aclnnMseLossGradPart")
"""What these queue, a device may fail on later."""
ASKING = (
    "aclrtQueryEventStatus",
    "aclrtSynchronizeEventWithTimeout",
    "aclrtSynchronizeStreamWithTimeout",
    "aclrtEventElapsedTime",
)
PLANNING = (
    "aclnnMseLossGradGetWorkspaceSize",
    "aclnnMseLossGradPartGetWorkspaceSize",
    "aclCreateTensor",
    "aclSetAclOpExecutorRepeatable",
    "aclSetInputTensorAddr",
    "aclSetOutputTensorAddr",
)
"""Called once for each kind of launch."""
CALLS = (*QUEUEING, *ASKING, *PLANNING)

CODES = (
    100000, 100002, 107000, 107001, 107002, 107003,
    200000, 207001, 207018,
    507014, 507034, 507046, 507047,
    507015, 507016, 507035, 507036, 507042, 507043, 507044, 507045,
    507010, 507053, 507054, 507055, 507899, 507901,
    161001, 161002, 361001, 561000, 561001, 561002, 561003, 561107, 561112,
    999999,
)  # fmt: skip
"""Every code of the project's facts on Ascend, and one that no table names."""
ONE_CODE_A_CLASS = (107000, 207001, 507046, 507015, 507899, 999999)


def rules(call: str, code: int, words: str) -> Iterator[str]:
    """Yields a fault of `call` for each way in which it can show.

    Args:
        call: One of CALLS.
        code: What is returned, or shows later.
        words: When and how often; see tests/simulator/src/acl/faults.h.
    """
    modes: Sequence[str] = ("return", "async", "poison", "lose") if call in QUEUEING else ("return",)
    for mode in modes:
        yield f"{call} code={code} mode={mode} {words}"
