"""`mse-grad-server --backend ascend` on the simulated NPU; faults and options come from its environment."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import pytest

from mse_grad_client import ClientOptions, MseGradClient, MseGradError, RetryOptions
from support.npu.runtime import Accounts
from support.npu.simulator import ROOT, require_simulator
from support.resident import resident_bytes
from support.server.backends import ascend_flags
from support.server.server_process import ServerProcess, running_server
from support.values import expected, operands
from support.waiting import PATIENCE_S

AT_ONCE = ClientOptions(retry=RetryOptions(max_attempts=1))


class Start(Protocol):
    """Returns a server on the simulated NPU, ready to serve."""

    def __call__(self, *arguments: str, **options: str) -> AbstractContextManager[ServerProcess]: ...


@pytest.fixture(scope="module")
def flags() -> tuple[str, ...]:
    return ascend_flags()


@pytest.fixture
def start(flags: tuple[str, ...], tmp_path: Path) -> Start:
    def started(*arguments: str, **options: str) -> AbstractContextManager[ServerProcess]:
        return running_server(*flags, *arguments, environment=environment(tmp_path, options))

    return started


def environment(tmp_path: Path, options: Mapping[str, str]) -> dict[str, str]:
    """Returns variables of the simulator, which writes the accounts of an ended server to the file `accounts`."""
    variables = {"ASCEND_SIMULATOR_ACCOUNTS": str(tmp_path / "accounts")}
    return {**variables, **{f"ASCEND_SIMULATOR_{name.upper()}": value for name, value in options.items()}}


def accounts(tmp_path: Path) -> Accounts:
    return Accounts.parse((tmp_path / "accounts").read_text())


def compute(client: MseGradClient, elements: int, *, seed: int = 0) -> None:
    given = operands((elements,), seed=seed)
    assert client.compute(*given).tobytes() == expected(*given).tobytes()


def compute_until_it_fails(client: MseGradClient) -> None:
    for seed in range(1000):
        compute(client, 1000, seed=seed)


def end_of(flags: tuple[str, ...], *arguments: str, variables: Mapping[str, str] | None = None) -> ServerProcess:
    """Returns a server that ended by itself."""
    server = ServerProcess(
        "--listen", "127.0.0.1:0", "--metrics-listen", "none", *flags, *arguments, environment=variables
    )
    server.start()
    server.process.wait(PATIENCE_S)
    server.kill()
    return server


def test_the_rehearsal_of_the_document_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert require_simulator() == ROOT / "build" / "simulator"
    document = (ROOT / "docs" / "ascend.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^## Rehearsal.*?^```sh\n(.*?)^```", document, re.DOTALL | re.MULTILINE)
    (command,) = re.findall(r"^\.venv/bin/mse-grad-server (.*)$", block.replace("\\\n", ""), re.MULTILINE)
    with running_server(*shlex.split(command)) as server, MseGradClient(server.address) as client:
        assert client.server_info().backend == "ascend"
        compute(client, 1000)


def test_the_cost_of_a_start(start: Start) -> None:
    began_s = time.monotonic()
    with start() as server:
        ready_s = time.monotonic() - began_s
        resident = resident_bytes(server.process.pid)
        print(f"ready after {ready_s:.2f} s with {resident / 2**20:.0f} MiB resident")
        mapped = Path(f"/proc/{server.process.pid}/maps").read_text()
        assert "libacl_rt.so" in mapped
        assert "torch" not in mapped
        assert resident < 300 * 2**20


def test_clients_survive_faults_of_the_device(start: Start) -> None:
    faults = (
        "aclrtMemcpyAsync code=107000 after=150; aclnnMseLossGradPart code=507015 mode=async after=120; "
        "aclrtRecordEvent code=507053 mode=lose after=180"
    )
    with start(faults=faults) as server, MseGradClient(server.address) as client, ThreadPoolExecutor(6) as threads:
        running = [threads.submit(compute, client, 1000 + n, seed=n) for n in range(200)]
        for done in running:
            done.result(timeout=PATIENCE_S)
        rungs = {event["rung"] for event in server.events if event["event"] == "device_repaired"}
        assert rungs == {"retry", "rebuild", "reset"}


def test_a_lost_device_ends_the_process_with_code_15_after_it_has_told_its_clients(
    flags: tuple[str, ...], tmp_path: Path
) -> None:
    variables = environment(tmp_path, {"faults": "aclnnMseLossGradPart code=507899 mode=dead after=100"})
    arguments = ("--listen", "127.0.0.1:0", "--metrics-listen", "none", *flags)
    server = ServerProcess(*arguments, environment=variables)
    server.start()
    server.wait_for_event("ready")
    with MseGradClient(server.address, options=AT_ONCE) as client, pytest.raises(MseGradError) as raised:
        compute_until_it_fails(client)
    assert raised.value.code.name == "UNAVAILABLE"
    assert server.process.wait(PATIENCE_S) == 15
    server.kill()
    (lost,) = [event for event in server.events if event["event"] == "device_lost"]
    assert lost["exit_code"] == 15
    assert "507899" in lost["message"]


def test_a_call_that_does_not_return_ends_the_process_with_code_16(flags: tuple[str, ...], tmp_path: Path) -> None:
    variables = environment(tmp_path, {"faults": "aclrtQueryEventStatus mode=hang after=100"})
    arguments = (
        "--listen",
        "127.0.0.1:0",
        "--metrics-listen",
        "none",
        *flags,
        "--device-timeout-s",
        "0.5",
        "--device-hang-s",
        "1",
    )
    server = ServerProcess(*arguments, environment=variables)
    server.start()
    server.wait_for_event("ready")
    with MseGradClient(server.address, options=AT_ONCE) as client, pytest.raises(MseGradError) as raised:
        compute_until_it_fails(client)
    assert raised.value.code.name == "UNAVAILABLE"
    assert server.process.wait(PATIENCE_S) == 16
    server.kill()


def test_all_devices_are_those_that_the_process_may_use(flags: tuple[str, ...], tmp_path: Path) -> None:
    variables = {**environment(tmp_path, {"devices": "5"}), "ASCEND_RT_VISIBLE_DEVICES": "1,3"}
    all_devices = ("--devices", "all", "--ready-when", "all")
    with (
        running_server(*flags, *all_devices, environment=variables) as server,
        MseGradClient(server.address) as client,
    ):
        assert [at.device for at in client.server_info().endpoints] == ["npu:0", "npu:1"]
        compute(client, 1000)


def test_no_device_at_all_ends_the_process_with_code_13(flags: tuple[str, ...], tmp_path: Path) -> None:
    variables = {**environment(tmp_path, {"devices": "5"}), "ASCEND_RT_VISIBLE_DEVICES": "7"}
    server = end_of(flags, "--devices", "all", variables=variables)
    assert server.process.returncode == 13
    (line,) = [event for event in server.events if event["event"] == "start_failed"]
    assert "ASCEND_RT_VISIBLE_DEVICES" in line["message"]


@pytest.mark.parametrize(
    ("arguments", "faults", "code", "advice"),
    [
        (
            ("--ascend-runtime-folder", "/nowhere"),
            "",
            10,
            "/nowhere. Install the CANN toolkit 8.5 or newer and source its set_env.sh",
        ),
        (("--ascend-op-library", "/nowhere/libcust_opapi.so"), "", 11, "custom_opp_"),
        ((), "aclInit code=507899", 12, "does not fit this toolkit: see npu-smi info"),
        (("--device", "5"), "", 13, "npu-smi info"),
        ((), "aclrtSetDevice code=207006", 14, "HwHiAiUser"),
    ],
    ids=["runtime", "operator package", "driver", "device", "permission"],
)
def test_a_start_that_fails_ends_with_its_code_and_says_what_to_do(
    flags: tuple[str, ...], tmp_path: Path, arguments: tuple[str, ...], faults: str, code: int, advice: str
) -> None:
    server = end_of(flags, *arguments, variables=environment(tmp_path, {"faults": faults}))
    assert server.process.returncode == code
    (line,) = [event for event in server.events if event["event"] == "start_failed"]
    assert line["exit_code"] == code
    assert advice in line["message"]


def test_a_device_that_writes_zeros_is_not_served_from(flags: tuple[str, ...], tmp_path: Path) -> None:
    variables = environment(tmp_path, {"faults": "aclnnMseLossGrad* mode=zero times=0"})
    server = end_of(flags, variables=variables)
    assert server.process.returncode == 5
    assert "differ from the formula" in server.log
