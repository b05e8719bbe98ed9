"""Places that name every dtype: a new one is incomplete until each has it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mse_grad.tensor import DTYPES, FLOAT64, DType

ROOT = Path(__file__).parents[2]

# Names that differ from the contract's: of the Open Inference Protocol, of the NPU's runtime, of Ascend C. `other_name`
# asks for that of a new dtype.
OPEN_INFERENCE = {"float32": "FP32", "float16": "FP16", "bfloat16": "BF16", "float64": "FP64"}
ACL = {"float32": "FLOAT", "float16": "FLOAT16", "bfloat16": "BF16"}
ASCEND_C = {"float32": "float", "float16": "half", "bfloat16": "bfloat16_t"}


def name(dtype: DType) -> str:
    return dtype.name


def constant(dtype: DType) -> str:
    return dtype.name.upper()


def other_name(table: str) -> Callable[[DType], str]:
    """Returns the function from a dtype to its name in a table of this module."""

    def name_of(dtype: DType) -> str:
        names: dict[str, str] = globals()[table]
        assert dtype.name in names, f"give {dtype.name} its name in {table} of this test, or leave it out as float64 is"
        return names[dtype.name]

    return name_of


# Patterns by file; {0} stands for a name of the dtype, which the function returns.
EVERYWHERE = {
    "proto/mse_grad/v1/mse_grad.proto": (r"\bDATA_TYPE_{0} = \d", constant),
    "kernel/cpu/mse_loss_grad_cpu.h": (r"\bMSE_LOSS_GRAD_CPU_{0} = \d", constant),
    "kernel/cpu/mse_loss_grad_cpu.cpp": (r"case MSE_LOSS_GRAD_CPU_{0}:", constant),
    "kernel/cpu/variant.h": (r"\bKernel {0};", name),
    "client/mse_grad_cli/conformance/tally.py": (r"\b{0}: \d", constant),
    "client/mse_grad_cli/conformance/edge.py": (r"\b{0}: ", constant),
    "client/mse_grad_cli/commands/peer.py": (r"\b{0}\b", constant),
    "server/mse_grad_server/rpc/open_inference/model.py": (r'"{0}": ', other_name("OPEN_INFERENCE")),
    "docs/numerics.md": (r"\b{0}\b", name),
    "docs/sdk.md": (r"\b{0}\b", name),
    "docs/open-inference.md": (r"\b{0}\b", other_name("OPEN_INFERENCE")),
    "README.md": (r"\b{0}\b", name),
}
# A vector core has no float64.
ON_THE_NPU = {
    "kernel/mse_loss_grad.h": (r"\b{0}\b", other_name("ASCEND_C")),
    "op_host/mse_loss_grad_def.cpp": (r"ge::DT_{0}\b", other_name("ACL")),
    "op_host/mse_loss_grad_dtype.cpp": (r"case ge::DT_{0}:", other_name("ACL")),
    "op_host/mse_loss_grad.json": (r'"{0}"', lambda dtype: dtype.name.replace("float32", "float")),
    "op_host/README.md": (r"\b{0}\b", name),
    "server/mse_grad_server/backends/ascend/acl/runtime.py": (r"\b{0} = \d", other_name("ACL")),
    "server/mse_grad_server/backends/ascend/device/blocks.py": (r"\b{0}\.wire: ", constant),
    "server/mse_grad_server/backends/ascend/device/canary.py": (r"\bDataType\.{0}: ", other_name("ACL")),
    "client/mse_grad_torch/aclnn.py": (r"\b{0}: \d", constant),
    "op_host/docs/aclnnMseLossGrad.md": (r"\b{0}\b", lambda dtype: constant(dtype).replace("FLOAT32", "FLOAT")),
    "op_host/docs/aclnnMseLossGradPart.md": (r"\b{0}\b", lambda dtype: constant(dtype).replace("FLOAT32", "FLOAT")),
    "tests/simulator/Makefile": (r"^dtypes := .*\b{0}\b", other_name("ASCEND_C")),
    "tests/simulator/src/kernels.cpp": (r"ge::DT_{0}, ", other_name("ACL")),
    "tests/support/npu/device.py": (r"\b{0}: \d", constant),
}


@pytest.mark.parametrize("path", [*EVERYWHERE, *ON_THE_NPU])
def test_every_place_names_every_dtype(path: str) -> None:
    pattern, name_of = {**EVERYWHERE, **ON_THE_NPU}[path]
    text = (ROOT / path).read_text(encoding="utf-8")
    wanted = [dtype for dtype in DTYPES if path in EVERYWHERE or dtype is not FLOAT64]
    patterns = [pattern.format(re.escape(name_of(dtype))) for dtype in wanted]
    missing = [pattern for pattern in patterns if not re.search(pattern, text, re.MULTILINE)]
    assert missing == [], f"{path} has no text of these patterns"


@pytest.mark.parametrize("variant", sorted(path.name for path in (ROOT / "kernel/cpu").glob("variant_*.cpp")))
def test_every_variant_of_the_cpu_kernel_computes_every_dtype(variant: str) -> None:
    text = (ROOT / "kernel/cpu" / variant).read_text(encoding="utf-8")
    (row,) = re.findall(r"^const Variant k\w+ = \{(.*)\};", text, re.MULTILINE)
    assert row.count("Compute<") == len(DTYPES), f"the row of {variant} must have one Compute<...> for each of DTYPES"


def test_the_guide_names_every_place() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = guide.split("### Add a dtype\n")[1].split("\n##")[0]
    missing = [path for path in [*EVERYWHERE, *ON_THE_NPU] if f"`{path}`" not in section]
    assert missing == []
