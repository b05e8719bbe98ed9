"""Broken operators: each is the real one with one mistake, planted by replacing text that occurs exactly once.

`origin` names the published operator that makes the mistake; the code is ours. The build writes them by running this
file, which therefore imports only the standard library.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["BROKEN_HOSTS", "BROKEN_KERNELS", "BrokenHost", "BrokenKernel", "Edit"]

KERNEL = "kernel/mse_loss_grad.h"
PLAN = "op_host/mse_loss_grad_plan.cpp"
CHECK = "op_host/mse_loss_grad_check.cpp"
TILING = "op_host/mse_loss_grad_tiling.cpp"
DEFINITION = "op_host/mse_loss_grad_def.cpp"
BLOCKS = "kernel/mse_loss_grad_tiling.h"

SAMPLE = "sample operator of cann-ops"
V2 = "ops-nn, loss/mse_loss_grad_v2"
EXPERIMENTAL = "ops-nn, experimental/loss/mse_loss_grad"


@dataclass(frozen=True)
class Edit:
    """Text of a file and its replacement."""

    find: str
    replace: str
    file: str = KERNEL


@dataclass(frozen=True)
class BrokenKernel:
    """A kernel with one mistake; the host side is the real one.

    Attributes:
        name: Name of the library that holds it.
        edits: The edits of the mistake; one mistake may be in several places.
        dtype: DTYPE_PREDICT of its compilation.
        origin: Published operators that make the mistake.
    """

    name: str
    edits: tuple[Edit, ...]
    dtype: str = "float"
    origin: tuple[str, ...] = ()


@dataclass(frozen=True)
class BrokenHost:
    """A host side with one mistake; the kernel is the real one.

    Attributes:
        name: Name of the folder of its package.
        edits: The edits of the mistake, all in one file.
        origin: Published operators that make the mistake.
    """

    name: str
    edits: tuple[Edit, ...]
    origin: tuple[str, ...] = ()


_COPY_OUT = "AscendC::DataCopyPad(y_[begin], y, Copy(ItemsInTile(begin)));"
_TILE_COUNT = "return static_cast<uint32_t>(left < tile_elements_ ? left : tile_elements_);"
_PREDICT_DEQUE = "Items predict = predict_queue_.template DeQue<T>();"
_BUFFERS = "const uint8_t buffers = static_cast<uint8_t>(tiling.buffers);"
_PREDICT_BUFFERS = "pipe->InitBuffer(predict_queue_, buffers, tile_bytes);"
_Y_BUFFERS = "pipe->InitBuffer(y_queue_, buffers, tile_bytes);"
_PREDICT_QUEUE = "AscendC::TQue<AscendC::TPosition::VECIN, kInputDepth> predict_queue_;"
_Y_QUEUE = "AscendC::TQue<AscendC::TPosition::VECOUT, kOutputDepth> y_queue_;"
_LAST_CAST = "AscendC::Cast(y[begin], gradient, AscendC::RoundMode::CAST_RINT, part);"

BROKEN_KERNELS = (
    BrokenKernel(
        "no_queue_between_vector_and_copy_out",
        (
            Edit(_Y_QUEUE, "AscendC::TBuf<AscendC::TPosition::VECOUT> y_queue_;"),
            Edit(_Y_BUFFERS, "pipe->InitBuffer(y_queue_, tile_bytes);"),
            Edit("Items y = y_queue_.template AllocTensor<T>();", "Items y = y_queue_.template Get<T>();"),
            Edit("y_queue_.EnQue(y);", ""),
            Edit("Items y = y_queue_.template DeQue<T>();", "Items y = y_queue_.template Get<T>();"),
            Edit("y_queue_.FreeTensor(y);", ""),
        ),
    ),
    BrokenKernel(
        "tail_rounded_up_to_512_bytes",
        (
            Edit(
                _TILE_COUNT,
                "const int64_t whole = (left + kLineElements - 1) / kLineElements * kLineElements;\n"
                "return static_cast<uint32_t>(whole < tile_elements_ ? whole : tile_elements_);",
            ),
        ),
        origin=(EXPERIMENTAL,),
    ),
    BrokenKernel(
        "cast_of_three_tiles", (Edit(_LAST_CAST, _LAST_CAST.replace("part)", "3 * tile_elements_)")),), "half", (V2,)
    ),
    BrokenKernel(
        "copy_out_given_bytes",
        (
            Edit(
                _COPY_OUT,
                "AscendC::DataCopyParams whole(1, static_cast<uint16_t>(ItemsInTile(begin) * sizeof(T)), 0, 0);\n"
                "AscendC::DataCopy(y_[begin], y, whole);",
            ),
        ),
        origin=(EXPERIMENTAL,),
    ),
    BrokenKernel(
        "copies_of_whole_blocks_only",
        (
            Edit(
                "AscendC::DataCopyPad(items, source, Copy(count), no_padding);",
                "(void)no_padding;\nAscendC::DataCopy(items, source, count);",
            ),
        ),
        origin=(SAMPLE,),
    ),
    BrokenKernel(
        "buffers_taken_between_copies",
        (
            Edit("        Items label = label_queue_.template AllocTensor<T>();\n", ""),
            Edit(
                "CopyIn(label_queue_, label, label_[begin], count);",
                "CopyIn(label_queue_, label_queue_.template AllocTensor<T>(), label_[begin], count);",
            ),
        ),
    ),
    BrokenKernel("free_tensor_forgotten", (Edit("label_queue_.FreeTensor(label);", ""),)),
    BrokenKernel(
        "freed_before_it_is_read",
        (
            Edit(
                _PREDICT_DEQUE,
                f"{_PREDICT_DEQUE}\npredict_queue_.FreeTensor(predict);\nAscendC::PipeBarrier<PIPE_V>();",
            ),
            Edit("y_queue_.EnQue(y);\n        predict_queue_.FreeTensor(predict);", "y_queue_.EnQue(y);"),
        ),
    ),
    BrokenKernel(
        "blocks_overlap_by_one_element",
        (
            Edit(
                "elements_ = MseLossGradBlockBegin(tiling, block + 1, kLineElements) - begin;",
                "elements_ = MseLossGradBlockBegin(tiling, block + 1, kLineElements) - begin;\n"
                "elements_ += begin + elements_ < tiling.elements ? 1 : 0;",
            ),
        ),
    ),
    BrokenKernel(
        "elements_rounded_to_half",
        (
            Edit(
                "coefficient_ = tiling.coefficient;",
                "const float elements = static_cast<half>(static_cast<float>(tiling.elements));\n"
                "coefficient_ = tiling.coefficient == 2.0f ? 2.0f : 2.0f / elements;",
            ),
        ),
        "half",
        (SAMPLE,),
    ),
    BrokenKernel(
        "muls_of_bfloat16",
        (
            Edit(
                "AscendC::Muls(gradient, gradient, coefficient_, part);",
                "AscendC::Muls(y[begin], y[begin], T(coefficient_), part);",
            ),
        ),
        "bfloat16_t",
    ),
    BrokenKernel(
        "cast_none_to_bfloat16", (Edit(_LAST_CAST, _LAST_CAST.replace("CAST_RINT", "CAST_NONE")),), "bfloat16_t"
    ),
    BrokenKernel(
        "one_buffer_where_two_are_claimed",
        (Edit(_PREDICT_BUFFERS, _PREDICT_BUFFERS.replace("buffers,", "1,")),),
    ),
    BrokenKernel(
        "two_tiles_in_a_queue_of_depth_one",
        (Edit(_PREDICT_QUEUE, _PREDICT_QUEUE.replace("kInputDepth", "1")),),
    ),
    BrokenKernel(
        "two_buffers_where_the_configuration_says_one",
        (
            Edit(
                "template <typename T, bool kScalarDout>\nclass MseLossGrad {",
                "constexpr AscendC::TQueConfig kOneBuffer = {false, false, false, 0, 1};\n\n"
                "template <typename T, bool kScalarDout>\nclass MseLossGrad {",
            ),
            Edit(_Y_QUEUE, _Y_QUEUE.replace("kOutputDepth", "kOutputDepth, &kOneBuffer")),
        ),
        origin=(V2,),
    ),
    BrokenKernel(
        "scalar_read_without_a_flag",
        (
            Edit("scalar_after_vector.SetFlag(kScalarReady);", ""),
            Edit("scalar_after_vector.WaitFlag(kScalarReady);", "(void)scalar_after_vector;"),
        ),
        "half",
        (SAMPLE,),
    ),
    BrokenKernel(
        "no_barrier_between_vector_calls",
        (
            Edit(
                "AscendC::Sub(y, predict, label, count);\n        AscendC::PipeBarrier<PIPE_V>();",
                "AscendC::Sub(y, predict, label, count);",
            ),
        ),
    ),
    BrokenKernel(
        "one_element_short",
        (Edit("const int64_t left = elements_ - begin;", "const int64_t left = elements_ - begin - 1;"),),
    ),
    BrokenKernel(
        "no_double_buffering",
        (
            Edit("        CopyIn(0);\n", ""),
            Edit(
                "            if (begin + tile_elements_ < elements_) {\n"
                "                CopyIn(begin + tile_elements_);\n"
                "            }\n",
                "            CopyIn(begin);\n",
            ),
            Edit(_BUFFERS, "const uint8_t buffers = 1;"),
        ),
        origin=(SAMPLE,),
    ),
    BrokenKernel(
        "scalar_dout_behind_the_first_tile",
        (
            Edit("        if constexpr (kScalarDout) {\n            CopyInScalarDout();\n        }\n", ""),
            Edit("            ReadScalarDout();\n", "            CopyInScalarDout();\n            ReadScalarDout();\n"),
        ),
        "half",
    ),
    BrokenKernel(
        "blocks_begin_anywhere",
        (
            Edit(
                "const int64_t begin = (block * tiling.lines_per_block + extra) * line_elements;",
                "(void)extra;\n(void)line_elements;\n"
                "const int64_t share = tiling.elements / tiling.blocks;\n"
                "const int64_t begin = block == tiling.blocks ? tiling.elements : block * share;",
                BLOCKS,
            ),
        ),
        origin=(V2,),
    ),
)

_NO_ELEMENTS = "if (problem.elements == 0) {\n        return true;\n    }"
_BLOCKS = "std::max<int64_t>(1, std::min<int64_t>(problem.cores, paying))"
_NO_LEAST_BLOCK = Edit(_BLOCKS, "std::min<int64_t>(problem.cores, paying)", PLAN)
_OUTPUT = (
    'op->Output("y")\n        .ParamType(REQUIRED)\n        .DataType({ge::DT_FLOAT, ge::DT_FLOAT16, ge::DT_BF16})'
)

BROKEN_HOSTS = (
    BrokenHost(
        "ub_of_196608_bytes",
        (
            Edit(
                "platform.GetCoreMemSize(platform_ascendc::CoreMemType::UB, problem->ub_bytes);",
                "problem->ub_bytes = 196608;",
                TILING,
            ),
        ),
        (V2,),
    ),
    BrokenHost(
        "always_one_core",
        (Edit("problem->cores = platform.GetCoreNumAiv();", "problem->cores = 1;", TILING),),
        (SAMPLE,),
    ),
    BrokenHost(
        "last_block_gets_the_remainder",
        (
            Edit(
                "tiling->lines_per_block = lines / blocks;\n    tiling->extra_lines = lines % blocks;",
                "tiling->lines_per_block = (lines + blocks - 1) / blocks;\n    tiling->extra_lines = 0;",
                PLAN,
            ),
        ),
        (V2,),
    ),
    BrokenHost("no_block_for_few_elements", (_NO_LEAST_BLOCK,)),
    BrokenHost("no_elements_divide_by_zero", (_NO_LEAST_BLOCK, Edit(_NO_ELEMENTS, "", PLAN)), (V2,)),
    BrokenHost("no_elements_refused", (Edit(_NO_ELEMENTS, _NO_ELEMENTS.replace("true", "false"), PLAN),), (SAMPLE,)),
    BrokenHost(
        "elements_in_32_bits",
        (Edit("*elements *= shape[i];", "*elements = static_cast<uint32_t>(*elements * shape[i]);", CHECK),),
        (SAMPLE, V2),
    ),
    BrokenHost(
        "elements_in_float",
        (
            Edit(
                "*elements *= shape[i];",
                "*elements = static_cast<int64_t>(static_cast<float>(*elements) * static_cast<float>(shape[i]));",
                CHECK,
            ),
        ),
        (V2,),
    ),
    BrokenHost(
        "unknown_reduction_is_sum",
        (
            Edit(
                'must be \\"none\\", \\"mean\\" or \\"sum\\"";\n    return false;',
                'must be \\"none\\", \\"mean\\" or \\"sum\\"";\n    *reduction = Reduction::kSum;\n    return true;',
                CHECK,
            ),
        ),
        (SAMPLE,),
    ),
    BrokenHost(
        "no_shape_check",
        (
            Edit(
                "if (!MayBeEqual(predict, other)) {", "if (!MayBeEqual(predict, other) && predict.size() > 8) {", CHECK
            ),
        ),
        (SAMPLE,),
    ),
    BrokenHost("no_bfloat16", (Edit(_OUTPUT, _OUTPUT.replace(", ge::DT_BF16", ""), DEFINITION),), (SAMPLE,)),
    BrokenHost(
        "no_infer_data_type",
        (Edit(".SetInferDataType(mse_loss_grad::InferDataType)", "", DEFINITION),),
        (SAMPLE,),
    ),
    BrokenHost(
        "numel_of_the_part",
        (Edit("problem->numel = *numel;", "problem->numel = problem->elements + 0 * *numel;", TILING),),
    ),
)


def write(root: Path, out: Path) -> None:
    """Writes the sources of all broken operators below `out`, and `broken.mk`, from which make knows them.

    Raises:
        SystemExit: Text to replace does not occur exactly once; the message names operator and file.
    """
    lines = []
    for kernel in BROKEN_KERNELS:
        _write_tree(root, out / kernel.name, kernel.name, kernel.edits)
        lines += [f"broken_kernels += {kernel.name}", f"dtype_{kernel.name} := {kernel.dtype}"]
    for host in BROKEN_HOSTS:
        _write_tree(root, out / host.name, host.name, host.edits)
        lines += [f"broken_hosts += {host.name}", f"source_{host.name} := {host.edits[0].file}"]
    _write_if_new(out / "broken.mk", "\n".join(lines) + "\n")


def _write_tree(root: Path, folder: Path, name: str, edits: tuple[Edit, ...]) -> None:
    for source in sorted([*root.glob("kernel/*.cpp"), *root.glob("kernel/*.h"), *root.glob("op_host/*.h")]):
        path = str(source.relative_to(root))
        _write_if_new(folder / path, _edited(root, name, path, edits))
    for path in {edit.file for edit in edits}:
        _write_if_new(folder / path, _edited(root, name, path, edits))


def _edited(root: Path, name: str, path: str, edits: tuple[Edit, ...]) -> str:
    text = (root / path).read_text(encoding="utf-8")
    for edit in edits:
        if edit.file != path:
            continue
        if text.count(edit.find) != 1:
            sys.exit(
                f"planted mistake {name}: {edit.find!r} occurs {text.count(edit.find)} times in {path}, not once; "
                "if you changed that text, change the Edit in tests/support/npu/broken_operators.py too"
            )
        text = text.replace(edit.find, edit.replace)
    return text


def _write_if_new(path: Path, text: str) -> None:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(__file__).resolve().parents[3], Path(sys.argv[1]))
