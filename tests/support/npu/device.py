"""The operators on a device from Python: ACL and the operator API through ctypes, on a real host or simulated.

All calls take the path of a real program: memory from aclrtMalloc, copies with aclrtMemcpy, and the operator's two
phases in a stream.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import byref, c_char_p, c_int64, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

from mse_grad.tensor import BFLOAT16, FLOAT16, FLOAT32, Array, DType, dtype_of
from support.npu.device_abi import load_ascendcl, load_nnopbase, load_opapi

__all__ = ["ACL_DTYPE", "DTYPES", "AclError", "Device"]

DTYPES = (FLOAT32, FLOAT16, BFLOAT16)
ACL_DTYPE = {FLOAT32: 0, FLOAT16: 1, BFLOAT16: 27}

_REPEATED_INIT = 100002  # harmless, according to the documentation of aclInit
_FORMAT_ND = 2
_MALLOC_HUGE_FIRST = 0
_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2
_ALIGNMENT_BYTES = 64
_CANARY = 0xA5
_KEPT_BUFFERS = 64


class AclError(Exception):
    """A call of ACL or of the operator API failed.

    Attributes:
        call: Name of the C function.
        code: Its return value.
        message: The message of aclGetRecentErrMsg.
    """

    def __init__(self, call: str, code: int, message: str) -> None:
        super().__init__(f"{call} returned {code}: {message}")
        self.call = call
        self.code = code
        self.message = message


class Device:
    """Device 0 of this process. One exists at a time; not thread-safe.

    A tensor lies at the end of its memory, which on the simulator is a guard page.

    Args:
        libraries: Folder of libacl_rt.so and libnnopbase.so; None lets the dynamic loader find them.
        package: Folder of libcust_opapi.so.
    """

    def __init__(self, libraries: Path | None, package: Path) -> None:
        self._libraries = libraries
        self._package = package
        self._buffers: dict[tuple[str, int], int] = {}

    def open(self) -> None:
        """Loads the libraries and takes device 0."""
        self._ascendcl = load_ascendcl(self._libraries)
        self._nnopbase = load_nnopbase(self._libraries)
        self._opapi = load_opapi(self._package)
        initialised = self._ascendcl.aclInit(None)
        if initialised not in (0, _REPEATED_INIT):
            raise AclError("aclInit", initialised, self._last_error())
        # If other code has initialised ACL in this process before, that code finalises it.
        self._finalises = initialised == 0
        self._acl("aclrtSetDevice", 0)
        self._stream = c_void_p()
        self._acl("aclrtCreateStream", byref(self._stream))

    def close(self) -> None:
        """Releases everything."""
        self._acl("aclrtDestroyStream", self._stream)
        self.free_buffers()
        self._acl("aclrtResetDevice", 0)
        if self._finalises:
            self._acl("aclFinalize")

    @property
    def soc_name(self) -> str:
        """What aclrtGetSocName answers."""
        name: bytes = self._ascendcl.aclrtGetSocName()
        return name.decode()

    def compute(self, predict: Array, label: Array, dout: Array | float, reduction: str | None) -> Array:
        """Returns the gradient of `aclnnMseLossGrad`, in the form that the bar judges.

        Args:
            predict: Any shape and layout; float32, float16 or bfloat16.
            label: The same.
            dout: The same, or one element, or a number.
            reduction: Any text, or None for the operator's default.

        Raises:
            AclError: A call failed; a fault of the kernel comes from aclrtSynchronizeStream.
        """
        return self._compute("aclnnMseLossGrad", predict, label, dout, [_text(reduction)])

    def compute_part(
        self, predict: Array, label: Array, dout: Array | float, reduction: str | None, *, numel: int
    ) -> Array:
        """Returns the gradient of `aclnnMseLossGradPart`; `numel` is the element count of the whole tensor."""
        return self._compute("aclnnMseLossGradPart", predict, label, dout, [_text(reduction), c_int64(numel)])

    def free_buffers(self) -> None:
        """Frees the device memory that `compute` keeps for its next calls."""
        for address in self._buffers.values():
            self._acl("aclrtFree", address)
        self._buffers.clear()

    def _compute(
        self, function: str, predict: Array, label: Array, dout: Array | float, attributes: Sequence[Any]
    ) -> Array:
        if len(self._buffers) > _KEPT_BUFFERS:
            self.free_buffers()
        dtype = dtype_of(predict.dtype, field="predict")
        given = {
            "predict": np.ascontiguousarray(predict, dtype.numpy).reshape(predict.shape),
            "label": np.ascontiguousarray(label, dtype.numpy).reshape(np.shape(label)),
            "dout": np.ascontiguousarray(dout, dtype.numpy).reshape(np.shape(dout)),
        }
        y = np.empty(predict.shape, dtype.numpy)
        tensors = [self._tensor(name, array, dtype) for name, array in given.items()]
        out = self._tensor("y", np.full(y.nbytes, _CANARY, np.uint8).view(dtype.numpy).reshape(y.shape), dtype)
        try:
            self._run(function, tensors, attributes, out)
            if y.nbytes:
                self._acl(
                    "aclrtMemcpy", y.ctypes.data, y.nbytes, self._address("y", y.nbytes), y.nbytes, _DEVICE_TO_HOST
                )
        finally:
            for tensor in [*tensors, out]:
                self._acl("aclDestroyTensor", tensor, library=self._nnopbase)
        return y

    def _run(self, function: str, tensors: Sequence[int], attributes: Sequence[Any], out: int) -> None:
        executor = self._prepare(function, tensors, attributes, out)
        self._acl(function, None, c_uint64(0), executor, self._stream, library=self._opapi)
        try:
            self._acl("aclrtSynchronizeStream", self._stream)
        except AclError:
            # A stream that failed stays failed.
            self._acl("aclrtDestroyStream", self._stream)
            self._acl("aclrtCreateStream", byref(self._stream))
            raise

    def _prepare(self, function: str, tensors: Sequence[int], attributes: Sequence[Any], out: int) -> c_void_p:
        workspace_bytes, executor = c_uint64(), c_void_p()
        arguments = (*map(c_void_p, tensors), *attributes, c_void_p(out), byref(workspace_bytes), byref(executor))
        self._acl(f"{function}GetWorkspaceSize", *arguments, library=self._opapi)
        assert workspace_bytes.value == 0, "the operator needs no workspace"
        return executor

    def _tensor(self, name: str, array: Array, dtype: DType) -> int:
        address = self._address(name, array.nbytes) if array.nbytes else None
        if array.nbytes:
            self._acl("aclrtMemcpy", address, array.nbytes, array.ctypes.data, array.nbytes, _HOST_TO_DEVICE)
        return self._create(array.shape, dtype, address)

    def _create(self, shape: Sequence[int], dtype: DType, address: int | None) -> int:
        rank, dims = len(shape), (c_int64 * len(shape))(*shape)
        tensor: int | None = self._nnopbase.aclCreateTensor(
            dims, rank, ACL_DTYPE[dtype], None, 0, _FORMAT_ND, dims, rank, address
        )
        if tensor is None:
            raise AclError("aclCreateTensor", 0, self._last_error())
        return tensor

    def _address(self, name: str, size_bytes: int) -> int:
        """Returns memory for a tensor that ends at a guard page; the same for the same name and rounded size."""
        room = -(-size_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        key = (name, room)
        if key not in self._buffers:
            memory = c_void_p()
            self._acl("aclrtMalloc", byref(memory), room, _MALLOC_HUGE_FIRST)
            assert memory.value is not None
            self._buffers[key] = memory.value
        return self._buffers[key] + room - size_bytes

    def _acl(self, call: str, *arguments: Any, library: ctypes.CDLL | None = None) -> None:
        code = getattr(library or self._ascendcl, call)(*arguments)
        if code != 0:
            raise AclError(call, code, self._last_error())

    def _last_error(self) -> str:
        message: bytes | None = self._ascendcl.aclGetRecentErrMsg()
        return "" if message is None else message.decode()


def _text(reduction: str | None) -> c_char_p:
    return c_char_p(None if reduction is None else reduction.encode())
