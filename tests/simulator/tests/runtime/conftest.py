"""A device of the simulated runtime for each test, which must free everything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mse_grad_server.backends.ascend.acl.runtime import Acl
from support.npu.runtime import AscendRuntime
from support.npu.runtime_bench import DEVICE, Bench


@pytest.fixture(scope="module")
def built(libraries: Path) -> AscendRuntime:
    return AscendRuntime(libraries)


@pytest.fixture
def runtime(built: AscendRuntime) -> Iterator[AscendRuntime]:
    before = built.accounts()
    with built.options(devices=2):
        yield built
        built.clear_faults()
    assert built.accounts().living == before.living


@pytest.fixture
def acl(runtime: AscendRuntime) -> Iterator[Acl]:
    acl = Acl.load(runtime.folder / "libacl_rt.so", runtime.folder / "libnnopbase.so")
    acl.initialise()
    acl.call("aclrtSetDevice", DEVICE)
    yield acl
    acl.call("aclrtResetDevice", DEVICE)
    acl.finalise()


@pytest.fixture
def bench(acl: Acl, runtime: AscendRuntime) -> Iterator[Bench]:
    bench = Bench(acl, runtime)
    yield bench
    bench.close()
