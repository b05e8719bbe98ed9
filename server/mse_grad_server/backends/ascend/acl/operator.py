"""The compiled operator: the aclnn functions of MseLossGradPart, and the library that has them.

Source: the code that the toolkit generates from op_host/mse_loss_grad_def.cpp. An aclnn call has two phases: the first
plans a launch and returns an executor, the second queues it on a stream. The server does not use MseLossGrad: the
toolkit has an operator of that name, whose kernel could run instead of ours. MseLossGradPart is unique.
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_uint64, c_void_p
from pathlib import Path

from mse_grad.tensor import Reduction
from mse_grad_server.backends.ascend.acl.prototypes import Function, find_function, library_of, parse_prototypes
from mse_grad_server.backends.ascend.acl.runtime import Acl

__all__ = ["OpApi"]

PROTOTYPES = """
int aclnnMseLossGradPartGetWorkspaceSize(const aclTensor *predict, const aclTensor *label, const aclTensor *dout, \
char *reductionOptional, int64_t numel, const aclTensor *out, uint64_t *workspaceSize, aclOpExecutor **executor)
int aclnnMseLossGradPart(void *workspace, uint64_t workspaceSize, aclOpExecutor *executor, void *stream)
"""


class OpApi:
    """Plans and queues launches of the operator.

    Args:
        library: The operator's library.
        acl: The runtime, which has the message of a failed call.

    Attributes:
        path: The library that has the functions.

    Raises:
        AttributeError: The library lacks a function; the message names it.
    """

    def __init__(self, library: ctypes.CDLL, acl: Acl) -> None:
        self._acl = acl
        self._functions: dict[str, Function] = {
            name: find_function(library, prototype) for name, prototype in parse_prototypes(PROTOTYPES).items()
        }
        # Another file than `library` if the loader found the function in a library that `library` depends on.
        self.path = library_of(self._functions["aclnnMseLossGradPart"])

    @classmethod
    def load(cls, path: Path, acl: Acl) -> OpApi:
        """Loads the library at `path`; raises OSError or AttributeError if it is unfit."""
        return cls(ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL), acl)

    def plan(self, tensors: tuple[int, int, int, int], reduction: Reduction, numel: int) -> tuple[int, int]:
        """Returns an executor and the bytes of workspace that it needs.

        Args:
            tensors: Handles of predict, label, dout and y; their addresses may be set later.
            reduction: Reduction of the loss.
            numel: N of the coefficient for mean: the element count of the whole tensor.

        Raises:
            AclError: The operator refused the plan.
        """
        workspace_bytes, executor = c_uint64(), c_void_p()
        name = "aclnnMseLossGradPartGetWorkspaceSize"
        predict, label, dout, y = tensors
        code = self._functions[name](
            predict, label, dout, reduction.text.encode(), numel, y, byref(workspace_bytes), byref(executor)
        )
        self._acl.check(name, code)
        return executor.value or 0, workspace_bytes.value

    def launch(self, executor: int, stream: int, *, workspace: int, workspace_bytes: int) -> None:
        """Queues a launch. A fault on the device shows at a later call.

        Raises:
            AclError: The launch could not be queued.
        """
        name = "aclnnMseLossGradPart"
        self._acl.check(name, self._functions[name](workspace or None, workspace_bytes, executor, stream))
