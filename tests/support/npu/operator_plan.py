"""The host side of the operator, except its calls of the toolkit, compiled and called through ctypes."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from mse_grad.tensor import Reduction

__all__ = ["LINE_BYTES", "OperatorHost", "Plan", "Refusal", "TilingData", "build_operator_host"]

LINE_BYTES = 512
_ROOT = Path(__file__).parents[3]
_SOURCES = (
    _ROOT / "op_host" / "mse_loss_grad_plan.cpp",
    _ROOT / "op_host" / "mse_loss_grad_check.cpp",
    _ROOT / "tests" / "op_host" / "plan_abi.cpp",
)
_REDUCTIONS = (Reduction.NONE, Reduction.MEAN, Reduction.SUM)  # in the order of the C++ enum
_REASON_BYTES = 4096


class Refusal(ValueError):
    """The host side refused; the message is its reason."""


class TilingData(ctypes.Structure):
    """MseLossGradTilingData of kernel/mse_loss_grad_tiling.h, field by field."""

    _fields_ = (
        ("elements", ctypes.c_int64),
        ("lines_per_block", ctypes.c_int64),
        ("extra_lines", ctypes.c_int64),
        ("blocks", ctypes.c_uint32),
        ("tile_elements", ctypes.c_uint32),
        ("part_elements", ctypes.c_uint32),
        ("buffers", ctypes.c_uint32),
        ("coefficient", ctypes.c_float),
    )


@dataclass(frozen=True)
class Plan:
    """One launch.

    Attributes:
        ranges: First and past-the-last element of each block.
        tile_elements: Elements of a full copy.
        part_elements: Elements of a tile that are float32 at one time.
        buffers: Buffers of a stream.
        coefficient: The float32 value that the kernel gets.
    """

    ranges: tuple[tuple[int, int], ...]
    tile_elements: int
    part_elements: int
    buffers: int
    coefficient: float


class OperatorHost:
    """The compiled functions. Thread safety: the functions are pure, but share the buffer for the reason."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.tiling_bytes.restype = ctypes.c_uint64
        self._library.block_begin.restype = ctypes.c_int64
        self._reason = ctypes.create_string_buffer(_REASON_BYTES)

    def tiling_bytes(self) -> int:
        """Returns the size of the struct as the compiler laid it out."""
        return int(self._library.tiling_bytes())

    def plan(
        self,
        elements: int,
        *,
        item_bytes: int,
        cores: int,
        ub_bytes: int,
        scalar_dout: bool = False,
        reduction: Reduction = Reduction.MEAN,
        numel: int | None = None,
    ) -> Plan:
        """Returns the plan of one launch; `numel` is `elements` unless given. Raises Refusal."""
        tiling = TilingData()
        self._call(
            "plan",
            ctypes.c_int64(elements),
            ctypes.c_int64(elements if numel is None else numel),
            ctypes.c_int32(_REDUCTIONS.index(reduction)),
            ctypes.c_uint32(item_bytes),
            ctypes.c_int32(scalar_dout),
            ctypes.c_uint32(cores),
            ctypes.c_uint64(ub_bytes),
            ctypes.byref(tiling),
        )
        line_elements = ctypes.c_int64(LINE_BYTES // item_bytes)
        begins = [
            int(self._library.block_begin(ctypes.byref(tiling), ctypes.c_int64(block), line_elements))
            for block in range(tiling.blocks + 1)
        ]
        return Plan(
            ranges=tuple(pairwise(begins)),
            tile_elements=tiling.tile_elements,
            part_elements=tiling.part_elements,
            buffers=tiling.buffers,
            coefficient=tiling.coefficient,
        )

    def parse_reduction(self, text: str | None) -> Reduction:
        """Returns the reduction that `text` names; None is the default. Raises Refusal."""
        reduction = ctypes.c_int32(-1)
        encoded = None if text is None else text.encode()
        self._call("parse_reduction", ctypes.c_char_p(encoded), ctypes.byref(reduction))
        return _REDUCTIONS[reduction.value]

    def count_elements(self, shape: Sequence[int]) -> int:
        """Returns the element count of predict. Raises Refusal."""
        elements = ctypes.c_int64(-1)
        self._call("count_elements", *_extents(shape), ctypes.byref(elements))
        return elements.value

    def check_same_shape(self, predict: Sequence[int], label: Sequence[int]) -> None:
        """Raises Refusal unless the shapes agree."""
        self._call("check_same_shape", *_extents(predict), *_extents(label))

    def check_dout_shape(self, predict: Sequence[int], dout: Sequence[int]) -> bool:
        """Returns whether dout is a scalar for predict. Raises Refusal."""
        scalar_dout = ctypes.c_int32(-1)
        self._call("check_dout_shape", *_extents(predict), *_extents(dout), ctypes.byref(scalar_dout))
        return scalar_dout.value == 1

    def _call(self, function: str, *arguments: object) -> None:
        accepted = self._library[function](*arguments, self._reason, ctypes.c_size_t(_REASON_BYTES))
        if not accepted:
            raise Refusal(self._reason.value.decode())


def build_operator_host(compiler: str, library: Path, *, flags: Sequence[str] = ()) -> OperatorHost:
    """Compiles the sources into `library` and loads it; warnings are errors.

    Args:
        compiler: A C++ compiler as on the command line.
        library: Path of the shared library; its folder is created.
        flags: Further flags of the compiler.
    """
    library.parent.mkdir(parents=True, exist_ok=True)
    # C++11, because the toolkit's code generation compiles the host side as C++11.
    command = [compiler, "-std=c++11", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", *flags]
    subprocess.run([*command, *map(str, _SOURCES), "-o", str(library)], check=True)
    return OperatorHost(library)


def _extents(shape: Sequence[int]) -> tuple[object, object]:
    return (ctypes.c_int64 * len(shape))(*shape), ctypes.c_size_t(len(shape))
