"""The C functions of ACL, of the operator API and of the simulator, declared for ctypes."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_int, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any

__all__ = ["LaunchTensor", "declare_simulator", "load_ascendcl", "load_nnopbase", "load_opapi"]

_DIMS = POINTER(c_int64)
_ATTRIBUTES: dict[str, tuple[Any, ...]] = {
    "aclnnMseLossGrad": (c_char_p,),
    "aclnnMseLossGradPart": (c_char_p, c_int64),
}


class LaunchTensor(ctypes.Structure):
    """struct AscendSimulatorTensor."""

    _fields_ = (("name", c_char_p), ("address", c_void_p), ("bytes", c_uint64))


def load_ascendcl(folder: Path | None) -> ctypes.CDLL:
    """Loads libacl_rt.so: the runtime. Without a folder the dynamic loader looks for it."""
    library = _load(folder, "libacl_rt.so")
    for name, arguments in {
        "aclInit": (c_char_p,),
        "aclFinalize": (),
        "aclrtSetDevice": (c_int32,),
        "aclrtResetDevice": (c_int32,),
        "aclrtCreateContext": (POINTER(c_void_p), c_int32),
        "aclrtDestroyContext": (c_void_p,),
        "aclrtSetCurrentContext": (c_void_p,),
        "aclrtCreateStream": (POINTER(c_void_p),),
        "aclrtDestroyStream": (c_void_p,),
        "aclrtSynchronizeStream": (c_void_p,),
        "aclrtGetDeviceCount": (POINTER(c_uint32),),
        "aclrtMalloc": (POINTER(c_void_p), c_size_t, c_int),
        "aclrtFree": (c_void_p,),
        "aclrtMallocHost": (POINTER(c_void_p), c_size_t),
        "aclrtFreeHost": (c_void_p,),
        "aclrtMemcpy": (c_void_p, c_size_t, c_void_p, c_size_t, c_int),
        "aclrtMemset": (c_void_p, c_size_t, c_int32, c_size_t),
    }.items():
        _declare(library, name, c_int32, *arguments)
    for name in ("aclGetRecentErrMsg", "aclrtGetSocName"):
        _declare(library, name, c_char_p)
    return library


def load_nnopbase(folder: Path | None) -> ctypes.CDLL:
    """Loads libnnopbase.so: tensors and executors. libacl_rt.so comes first."""
    library = _load(folder, "libnnopbase.so")
    dtype, offset, layout = c_int, c_int64, c_int
    create = (_DIMS, c_uint64, dtype, _DIMS, offset, layout, _DIMS, c_uint64, c_void_p)
    _declare(library, "aclCreateTensor", c_void_p, *create)
    _declare(library, "aclDestroyTensor", c_int32, c_void_p)
    _declare(library, "aclSetAclOpExecutorRepeatable", c_int32, c_void_p)
    _declare(library, "aclDestroyAclOpExecutor", c_int32, c_void_p)
    for kind in ("Input", "Output"):
        for spelling in ("acl", "Acl"):  # a toolkit has one of the two spellings or both
            if hasattr(library, name := f"{spelling}Set{kind}TensorAddr"):
                _declare(library, name, c_int32, c_void_p, c_size_t, c_void_p, c_void_p)
    return library


def load_opapi(folder: Path) -> ctypes.CDLL:
    """Loads libcust_opapi.so: the operators. libnnopbase.so comes first."""
    library = _load(folder, "libcust_opapi.so")
    for operator, attributes in _ATTRIBUTES.items():
        first_phase = (c_void_p, c_void_p, c_void_p, *attributes, c_void_p, POINTER(c_uint64), POINTER(c_void_p))
        _declare(library, f"{operator}GetWorkspaceSize", c_int32, *first_phase)
        _declare(library, operator, c_int32, c_void_p, c_uint64, c_void_p, c_void_p)
    return library


def declare_simulator(ascendcl: ctypes.CDLL, nnopbase: ctypes.CDLL) -> None:
    """Declares the functions that the simulator's libraries have beside the published ones."""
    for name, arguments in {
        "AscendSimulatorSet": (c_char_p, c_char_p),
        "AscendSimulatorVector": (
            *(c_uint32, c_uint32, c_uint32, c_int32),
            *(c_void_p, c_void_p, c_void_p, c_uint64, c_int64),
        ),
        "AscendSimulatorLaunch": (
            *(c_char_p, c_void_p, c_int64, POINTER(LaunchTensor), c_uint32),
            *(c_char_p, c_uint64, c_uint64),
        ),
    }.items():
        _declare(ascendcl, name, c_int32, *arguments)
    for name in ("AscendSimulatorText", "AscendSimulatorLastLaunch"):
        _declare(ascendcl, name, c_char_p)
    _declare(ascendcl, "AscendSimulatorLiveAllocations", c_uint64)
    _declare(ascendcl, "AscendSimulatorAllocate", c_void_p, c_uint64, c_int32)
    _declare(ascendcl, "AscendSimulatorFree", None, c_void_p, c_uint64, c_int32)
    _declare(nnopbase, "AscendSimulatorLiveHandles", c_uint64)
    _declare(nnopbase, "AscendSimulatorReplaceKernel", None, c_char_p, c_int32, c_void_p)
    _declare(nnopbase, "AscendSimulatorTiling", c_int64, c_void_p, c_void_p, c_uint64)


def _load(folder: Path | None, name: str) -> ctypes.CDLL:
    return ctypes.CDLL(name if folder is None else str(folder / name), ctypes.RTLD_GLOBAL)


def _declare(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> None:
    function: Any = getattr(library, name)
    function.argtypes = arguments
    function.restype = result
