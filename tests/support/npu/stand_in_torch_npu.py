"""A stand-in for torch_npu: the device type "npu" of a real PyTorch, with memory and streams of the simulated runtime.

A registered device type stays for the life of the process, so use this in a process of its own. Each allocation ends
at a guard page.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import byref, c_char_p, c_int32, c_int64, c_uint8, c_uint16, c_uint64, c_void_p, pythonapi
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils import backend_registration

from support.npu.device_abi import load_ascendcl

__all__ = ["Npu"]

# The device type that DLPack reserves for extensions; PyTorch takes it for the registered one.
_EXTENSION_DEVICE = 12
_DLPACK_TYPES = {torch.float32: (2, 32), torch.float16: (2, 16), torch.bfloat16: (4, 16), torch.uint8: (1, 8)}
_ALIGNMENT_BYTES = 64
_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2
_STALE = 0xA5
_PRIVATE_FORMAT = 29


class _DLDevice(ctypes.Structure):
    _fields_ = (("type", c_int32), ("index", c_int32))


class _DLDataType(ctypes.Structure):
    _fields_ = (("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16))


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", c_void_p),
        ("device", _DLDevice),
        ("ndim", c_int32),
        ("dtype", _DLDataType),
        ("shape", ctypes.POINTER(c_int64)),
        ("strides", ctypes.POINTER(c_int64)),
        ("byte_offset", c_uint64),
    )


_Deleter = ctypes.CFUNCTYPE(None, c_void_p)


class _DLManagedTensor(ctypes.Structure):
    _fields_ = (("tensor", _DLTensor), ("context", c_void_p), ("deleter", _Deleter))


class Npu:
    """Device 0 of the simulated runtime, as `torch.npu`.

    Attributes:
        stream_reads: How often the operator asked for the current stream's handle.
    """

    def __init__(self, libraries: Path) -> None:
        self._acl = load_ascendcl(libraries)
        self._managed: list[tuple[_DLManagedTensor, Any]] = []
        self._memory: list[int] = []
        self._private: set[int] = set()
        self._stream = c_void_p()
        self.stream_reads = 0

    def open(self) -> None:
        """Takes the device and registers the device type with PyTorch."""
        self._check(self._acl.aclInit(None))
        self._check(self._acl.aclrtSetDevice(0))
        self._check(self._acl.aclrtCreateStream(byref(self._stream)))
        backend_registration._setup_privateuseone_for_python_backend(rename="npu")
        torch.npu.device = self._device
        torch.npu.current_stream = self._current_stream
        torch.npu.get_npu_format = lambda tensor: _PRIVATE_FORMAT if tensor.data_ptr() in self._private else 2
        torch.npu.npu_format_cast = self._format_cast
        torch.library.impl("aten::empty.memory_format", "PrivateUse1")(self._empty)

    def close(self) -> None:
        """Releases everything; no tensor of the device may be in use."""
        for address in self._memory:
            self._check(self._acl.aclrtFree(c_void_p(address)))
        self._check(self._acl.aclrtDestroyStream(self._stream))
        self._check(self._acl.aclrtResetDevice(0))
        self._check(self._acl.aclFinalize())

    def tensor(self, values: Any, *, is_private: bool = False) -> Any:
        """Returns a copy of a CPU tensor on the device, in a private format of the NPU if `is_private`."""
        values = values.contiguous()
        on_device = self._new(tuple(values.shape), values.dtype)
        if values.numel():
            size = values.numel() * values.itemsize
            copy = self._acl.aclrtMemcpy(
                c_void_p(on_device.data_ptr()), size, c_void_p(values.data_ptr()), size, _HOST_TO_DEVICE
            )
            self._check(copy)
        if is_private:
            self._private.add(on_device.data_ptr())
        return on_device

    def to_cpu(self, tensor: Any) -> Any:
        """Waits for the stream and returns a copy of a contiguous tensor."""
        self.synchronize()
        values = torch.empty(tensor.shape, dtype=tensor.dtype)
        size = values.numel() * values.itemsize
        if size:
            copy = self._acl.aclrtMemcpy(
                c_void_p(values.data_ptr()), size, c_void_p(tensor.data_ptr()), size, _DEVICE_TO_HOST
            )
            self._check(copy)
        return values

    def synchronize(self) -> None:
        """Waits for the stream; raises RuntimeError if a kernel broke a rule."""
        self._check(self._acl.aclrtSynchronizeStream(self._stream))

    def _new(self, shape: Sequence[int], dtype: Any) -> Any:
        code, bits = _DLPACK_TYPES[dtype]
        size = bits // 8
        for extent in shape:
            size *= extent
        address = self._allocate(size)
        dims = (c_int64 * len(shape))(*shape)
        described = _DLTensor(
            address, _DLDevice(_EXTENSION_DEVICE, 0), len(shape), _DLDataType(code, bits, 1), dims, None, 0
        )
        managed = _DLManagedTensor(described, None, _Deleter(lambda _: None))
        self._managed.append((managed, dims))
        new_capsule = pythonapi.PyCapsule_New
        new_capsule.restype, new_capsule.argtypes = ctypes.py_object, (c_void_p, c_char_p, c_void_p)
        return torch.utils.dlpack.from_dlpack(new_capsule(ctypes.addressof(managed), b"dltensor", None))

    def _allocate(self, size: int) -> int:
        """Returns stale memory that ends at a guard page."""
        room = max(-(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES, _ALIGNMENT_BYTES)
        memory = c_void_p()
        self._check(self._acl.aclrtMalloc(byref(memory), room, 0))
        assert memory.value is not None
        self._memory.append(memory.value)
        self._check(self._acl.aclrtMemset(memory, room, _STALE, room))
        return memory.value + room - size

    def _empty(self, size: Sequence[int], *, dtype: Any = torch.float32, **_: Any) -> Any:
        return self._new(tuple(size), dtype)

    @contextmanager
    def _device(self, device: Any) -> Iterator[None]:
        assert str(device) == "npu:0", device
        # sets the device of the calling thread: autograd runs a separate thread for a device
        self._check(self._acl.aclrtSetDevice(0))
        yield

    def _current_stream(self, device: Any) -> Any:
        assert str(device) == "npu:0", device
        self.stream_reads += 1
        return SimpleNamespace(npu_stream=self._stream.value)

    def _format_cast(self, tensor: Any, layout: int) -> Any:
        assert layout == 2
        return self.tensor(self.to_cpu(tensor))

    def _check(self, code: int) -> None:
        if code != 0:
            words: bytes | None = self._acl.aclGetRecentErrMsg()
            raise RuntimeError(f"{code}: {(words or b'').decode()}")
