"""The operator's host side, compiled once."""

from __future__ import annotations

import pytest

from support.operator_plan import OperatorHost, build_operator_host
from support.tools import require_program


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> OperatorHost:
    return build_operator_host(require_program("c++"), tmp_path_factory.mktemp("op_host") / "liboperator_host.so")
