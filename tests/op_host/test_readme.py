"""The figures of op_host/README.md, compared with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.npu.operator_plan import OperatorHost

ROOT = Path(__file__).parents[2]
README = (ROOT / "op_host" / "README.md").read_text(encoding="utf-8")
ELEMENTS = 2**24


def plan_rows() -> list[tuple[int, str, str, int, int, int]]:
    """Returns the rows of the table of plans: UB, dtypes, dout, tile, parts, UB used; sizes in bytes."""
    rows, ub_bytes = [], 0
    for chip, dtypes, dout, tile, parts, used in re.findall(
        r"^\|([^|]*)\| (float[^|]*) \| (full|scalar) \| (\d+) B \| (\d) \| (\d+) B \|$", README, re.MULTILINE
    ):
        ub_bytes = int(chip.split()[1]) if chip.strip() else ub_bytes
        rows.append((ub_bytes, dtypes, dout, int(tile), int(parts), int(used)))
    return rows


def test_the_table_of_plans_has_every_chip_dtype_and_dout() -> None:
    assert len({row[:3] for row in plan_rows()}) == 2 * 2 * 2


@pytest.mark.parametrize(("ub_bytes", "dtypes", "dout", "tile", "parts", "used"), plan_rows())
def test_the_table_of_plans_has_the_figures_of_the_planner(
    host: OperatorHost, ub_bytes: int, dtypes: str, dout: str, tile: int, parts: int, used: int
) -> None:
    narrow, scalar = dtypes != "float32", dout == "scalar"
    item_bytes = 2 if narrow else 4
    plan = host.plan(ELEMENTS, item_bytes=item_bytes, scalar_dout=scalar, cores=1, ub_bytes=ub_bytes)
    assert plan.tile_elements * item_bytes == tile
    assert plan.tile_elements // plan.part_elements == parts
    scalar_bytes = 32 * (1 + narrow) if scalar else 0
    assert (6 if scalar else 8) * tile + narrow * 2 * 4 * plan.part_elements + scalar_bytes == used


@pytest.mark.parametrize("operator", ["MseLossGrad", "MseLossGradPart"])
def test_the_specification_has_the_products_and_attributes_of_the_definition(operator: str) -> None:
    sources = sorted((ROOT / "op_host").glob("*_def.cpp"))
    definition = "".join(source.read_text(encoding="utf-8") for source in sources)
    assert f"OP_ADD({operator});" in definition
    specification = README.split("## Specification")[1].split("\n## ")[0]
    products = re.findall(r'AddConfig\("(\w+)"\)', definition)
    attributes = re.findall(r'Attr\("(\w+)"\)', definition)
    assert products
    assert all(f"({product})" in specification for product in products)
    assert all(f"attribute `{attribute}`" in specification for attribute in attributes)
    assert f"`aclnn{operator}GetWorkspaceSize`, `aclnn{operator}`" in specification
