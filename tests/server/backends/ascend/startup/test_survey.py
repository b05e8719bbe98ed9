"""Survey of the runtime in another process, before this one has loaded it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mse_grad_server.backends.ascend.startup.errors import LibraryNotFound, NoDevice, OpPackageMissing
from mse_grad_server.backends.ascend.startup.survey import Survey, survey
from mse_grad_server.process.exits import BackendUnavailable, ExitCode
from support.npu.runtime import AscendRuntime
from support.waiting import PATIENCE_S


def look(runtime: AscendRuntime, variables: dict[str, str], *, op_library: Path | None = None) -> Survey:
    return survey(
        str(runtime.folder),
        str(op_library or runtime.op_library),
        {**os.environ, **variables},
        timeout_s=PATIENCE_S,
    )


def test_a_runtime_says_how_many_devices_a_process_may_use(built_runtime: AscendRuntime) -> None:
    found = look(built_runtime, {"ASCEND_SIMULATOR_DEVICES": "5"})
    assert found == Survey(None, None, 5)
    assert found.device_count == 5


@pytest.mark.parametrize(("visible", "count"), [("3", 1), ("0,2,4", 3), ("1,7", 1), ("1, 2", 1)])
def test_the_devices_are_those_that_are_visible(built_runtime: AscendRuntime, visible: str, count: int) -> None:
    variables = {"ASCEND_SIMULATOR_DEVICES": "5", "ASCEND_RT_VISIBLE_DEVICES": visible}
    assert look(built_runtime, variables).device_count == count


@pytest.mark.parametrize("visible", ["9", "x", "2,1", "1,1"])
def test_a_list_of_visible_devices_that_is_wrong_leaves_none(built_runtime: AscendRuntime, visible: str) -> None:
    found = look(built_runtime, {"ASCEND_SIMULATOR_DEVICES": "5", "ASCEND_RT_VISIBLE_DEVICES": visible})
    with pytest.raises(NoDevice, match="ASCEND_RT_VISIBLE_DEVICES"):
        _ = found.device_count


def test_the_error_of_a_library_is_the_servers_own(built_runtime: AscendRuntime, tmp_path: Path) -> None:
    with pytest.raises(LibraryNotFound, match="--ascend-runtime-folder"):
        _ = survey(str(tmp_path), "", os.environ, timeout_s=PATIENCE_S).device_count
    broken = tmp_path / "libcust_opapi.so"
    broken.write_text("no library")
    found = look(built_runtime, {}, op_library=broken)
    assert isinstance(found.operator, OpPackageMissing)
    assert found.operator.exit_code == ExitCode.OP_PACKAGE
    assert found.device_count == 1


def test_a_runtime_that_ends_the_process_ends_no_other(built_runtime: AscendRuntime) -> None:
    found = look(built_runtime, {"ASCEND_SIMULATOR_DEVICES": "none"})  # on which the simulator aborts
    assert isinstance(found.runtime, BackendUnavailable)
    assert "ended with code -6" in str(found.runtime)
