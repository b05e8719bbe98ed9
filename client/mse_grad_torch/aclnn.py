"""The aclnn functions of the operator `MseLossGradPart`, through ctypes, for tensors of the caller.

Sources: aclnn/acl_meta.h (libnnopbase.so), acl/acl.h, and the code that the toolkit generates from
op_host/mse_loss_grad_def.cpp. An aclnn call has two phases: the first plans a launch and returns an executor, the
second queues it on a stream and takes the executor back.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from ctypes import byref, c_char_p, c_int, c_int32, c_int64, c_uint64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mse_grad.tensor import BFLOAT16, FLOAT16, FLOAT32, DType, Reduction

__all__ = ["Aclnn", "Plan"]

_DATA_TYPES = {FLOAT32: 0, FLOAT16: 1, BFLOAT16: 27}
_FORMAT_ND = 2
_LIBRARY = Path("op_api", "lib", "libcust_opapi.so")
_RUNTIMES = ("libacl_rt.so", "libascendcl.so")  # newest name first
_PLAN = "aclnnMseLossGradPartGetWorkspaceSize"
_LAUNCH = "aclnnMseLossGradPart"


@dataclass
class Plan:
    """A planned launch.

    Attributes:
        executor: The aclOpExecutor, which the launch takes back.
        workspace_bytes: Device memory that the launch needs beside its tensors.
        is_launched: Whether the launch has taken the executor back.
    """

    executor: int
    workspace_bytes: int
    is_launched: bool = False


class Aclnn:
    """The operator of one process.

    Thread safety: planning and launching are thread-safe; each thread must have a device set.

    Args:
        runtime: Library with aclGetRecentErrMsg.
        nnopbase: Library with aclCreateTensor and aclDestroyTensor.
        opapi: Library of the operator.
    """

    def __init__(self, runtime: ctypes.CDLL, nnopbase: ctypes.CDLL, opapi: ctypes.CDLL) -> None:
        self._error_words = _function(runtime, "aclGetRecentErrMsg", c_char_p)
        self._create = _function(
            nnopbase,
            "aclCreateTensor",
            c_void_p,
            *(c_void_p, c_uint64, c_int, c_void_p, c_int64, c_int, c_void_p, c_uint64, c_void_p),
        )
        self._destroy = _function(nnopbase, "aclDestroyTensor", c_int32, c_void_p)
        self._discard = _function(nnopbase, "aclDestroyAclOpExecutor", c_int32, c_void_p)
        self._plan = _function(
            opapi,
            _PLAN,
            c_int32,
            *(c_void_p, c_void_p, c_void_p, c_char_p, c_int64, c_void_p, c_void_p, c_void_p),
        )
        self._launch = _function(opapi, _LAUNCH, c_int32, c_void_p, c_uint64, c_void_p, c_void_p)

    @classmethod
    def load(cls, environment: Mapping[str, str] = os.environ) -> Aclnn:
        """Returns the operator of the first package in ASCEND_CUSTOM_OPP_PATH that has it.

        Args:
            environment: Variables of the process.

        Raises:
            RuntimeError: There is none, or a library of the toolkit is missing.
        """
        packages = [Path(folder) for folder in environment.get("ASCEND_CUSTOM_OPP_PATH", "").split(":") if folder]
        found = [package / _LIBRARY for package in packages if (package / _LIBRARY).is_file()]
        try:
            runtime = _first_library(_RUNTIMES)
            nnopbase = ctypes.CDLL("libnnopbase.so", mode=ctypes.RTLD_GLOBAL)
            for path in found:
                library = ctypes.CDLL(str(path))
                if hasattr(library, _LAUNCH):
                    return cls(runtime, nnopbase, library)
        except (OSError, AttributeError) as cause:
            raise RuntimeError(f"the operator MseLossGradPart cannot be used: {cause}") from cause
        raise RuntimeError(
            f"no package in ASCEND_CUSTOM_OPP_PATH ({':'.join(map(str, packages)) or 'not set'}) has the operator "
            "MseLossGradPart; install the operator package of mse-grad and source its bin/set_env.bash"
        )

    @staticmethod
    def check_dtype(dtype: DType) -> None:
        """Raises NotImplementedError unless the NPU computes `dtype`."""
        if dtype not in _DATA_TYPES:
            allowed = ", ".join(known.name for known in _DATA_TYPES)
            raise NotImplementedError(f"an NPU does not compute {dtype.name}; it computes {allowed}")

    @contextmanager
    def planned(
        self, dtype: DType, reduction: Reduction, tensors: Sequence[tuple[tuple[int, ...], int]], *, numel: int
    ) -> Iterator[Plan]:
        """Plans a launch for the body of the `with`, which launches it once.

        Args:
            dtype: Element type of all tensors.
            reduction: How the loss was reduced.
            tensors: Shape and device address of predict, label, dout and y, each contiguous.
            numel: N of the coefficient for mean.

        Raises:
            RuntimeError: The operator refused the plan.
        """
        handles: list[int] = []
        try:
            for shape, address in tensors:
                handles.append(self._created(dtype, shape, address))
            workspace_bytes, executor = c_uint64(), c_void_p()
            predict, label, dout, y = handles
            code = self._plan(
                predict, label, dout, reduction.text.encode(), numel, y, byref(workspace_bytes), byref(executor)
            )
            self._check(_PLAN, code)
            plan = Plan(executor.value or 0, workspace_bytes.value)
            try:
                yield plan
            finally:
                if not plan.is_launched:
                    self._discard(plan.executor)
        finally:
            for handle in handles:
                self._destroy(handle)

    def launch(self, plan: Plan, *, workspace: int, stream: int) -> None:
        """Queues a planned launch on a stream; a fault of the device shows when the stream is waited for.

        Args:
            plan: From `planned`; launched at most once.
            workspace: Device address of its `workspace_bytes`.
            stream: An aclrtStream of the current device.

        Raises:
            RuntimeError: The launch could not be queued.
        """
        plan.is_launched = True
        self._check(_LAUNCH, self._launch(workspace or None, plan.workspace_bytes, plan.executor, stream))

    def _created(self, dtype: DType, shape: tuple[int, ...], address: int) -> int:
        dims = (c_int64 * len(shape))(*shape)
        handle = self._create(
            dims, len(shape), _DATA_TYPES[dtype], None, 0, _FORMAT_ND, dims, len(shape), c_void_p(address)
        )
        if not handle:
            raise RuntimeError(f"aclCreateTensor failed: {self._words()}")
        return int(handle)

    def _check(self, name: str, code: int) -> None:
        if code != 0:
            raise RuntimeError(f"{name} failed with code {code}: {self._words()}")

    def _words(self) -> str:
        words: bytes | None = self._error_words()
        return " ".join((words or b"").decode(errors="replace").split())


def _first_library(names: Sequence[str]) -> ctypes.CDLL:
    errors = []
    for name in names:
        try:
            return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError as cause:
            errors.append(str(cause))
    raise OSError("; ".join(errors))


def _function(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    """Returns the function, declared; raises AttributeError naming it if the library lacks it."""
    # A separate function pointer, so that the declarations of other users of the library do not change.
    prototype = ctypes.CFUNCTYPE(result, *arguments)
    return prototype((name, library))
