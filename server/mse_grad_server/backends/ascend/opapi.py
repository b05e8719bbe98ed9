"""The compiled operator: the aclnn functions of MseLossGrad and MseLossGradPart, and the library they came from.

Source: the code that the toolkit generates from op_host/mse_loss_grad_def.cpp. The two phases of aclnn: the first plans
a launch and gives an executor, the second queues it on a stream.
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_uint64, c_void_p
from pathlib import Path

from mse_grad.tensor import Reduction
from mse_grad_server.backends.ascend.acl import Acl
from mse_grad_server.backends.ascend.prototypes import Function, find_function, library_of, parse_prototypes

__all__ = ["OpApi"]

PROTOTYPES = """
int aclnnMseLossGradGetWorkspaceSize(const aclTensor *predict, const aclTensor *label, const aclTensor *dout, \
char *reductionOptional, const aclTensor *out, uint64_t *workspaceSize, aclOpExecutor **executor)
int aclnnMseLossGrad(void *workspace, uint64_t workspaceSize, aclOpExecutor *executor, void *stream)
int aclnnMseLossGradPartGetWorkspaceSize(const aclTensor *predict, const aclTensor *label, const aclTensor *dout, \
char *reductionOptional, int64_t numel, const aclTensor *out, uint64_t *workspaceSize, aclOpExecutor **executor)
int aclnnMseLossGradPart(void *workspace, uint64_t workspaceSize, aclOpExecutor *executor, void *stream)
"""


class OpApi:
    """Plans and queues launches of the operator.

    Attributes:
        path: The library that answered.
    """

    def __init__(self, library: ctypes.CDLL, acl: Acl) -> None:
        """Finds the four functions; raises AttributeError naming the one that the library lacks."""
        self._acl = acl
        self._functions: dict[str, Function] = {
            name: find_function(library, prototype) for name, prototype in parse_prototypes(PROTOTYPES).items()
        }
        # The loader also looks through what the library needs, where the toolkit's own operator of this name may be.
        self.path = library_of(self._functions["aclnnMseLossGrad"])

    @classmethod
    def load(cls, path: Path, acl: Acl) -> OpApi:
        """Returns the functions of the library at `path`; raises OSError or AttributeError where it is unfit."""
        return cls(ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL), acl)

    def plan(
        self, tensors: tuple[int, int, int, int], reduction: Reduction, part_of_numel: int | None
    ) -> tuple[int, int]:
        """Returns an executor and the bytes of workspace that it needs.

        Args:
            tensors: Handles of predict, label, dout and y; their addresses may be set later.
            reduction: Reduction of the loss.
            part_of_numel: N of the whole tensor where this is a part of it: runs MseLossGradPart.

        Raises:
            AclError: The operator refused the plan.
        """
        workspace_bytes, executor = c_uint64(), c_void_p()
        name = _operator(part_of_numel) + "GetWorkspaceSize"
        numel = () if part_of_numel is None else (part_of_numel,)
        predict, label, dout, y = tensors
        code = self._functions[name](
            predict, label, dout, reduction.text.encode(), *numel, y, byref(workspace_bytes), byref(executor)
        )
        self._acl.check(name, code)
        return executor.value or 0, workspace_bytes.value

    def launch(
        self, executor: int, stream: int, part_of_numel: int | None, *, workspace: int, workspace_bytes: int
    ) -> None:
        """Queues a launch; what goes wrong on the device shows at a later call.

        Raises:
            AclError: It could not be queued.
        """
        name = _operator(part_of_numel)
        self._acl.check(name, self._functions[name](workspace or None, workspace_bytes, executor, stream))


def _operator(part_of_numel: int | None) -> str:
    return "aclnnMseLossGrad" if part_of_numel is None else "aclnnMseLossGradPart"
