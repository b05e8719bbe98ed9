"""The operator's host side, compiled once."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.npu.operator_plan import OperatorHost, build_operator_host
from support.tools import require_program


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs these tests on one version of Python, because they are about C++."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.one_python)


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> OperatorHost:
    return build_operator_host(require_program("c++"), tmp_path_factory.mktemp("op_host") / "liboperator_host.so")
