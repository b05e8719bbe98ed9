from __future__ import annotations

import pytest

from mse_grad_server.process.exits import SettingsError
from mse_grad_server.settings.checks import faults_of
from mse_grad_server.settings.model import Settings
from mse_grad_server.settings.sources import parse_command


def test_the_defaults_have_no_fault() -> None:
    assert faults_of(Settings()) == []
    assert faults_of(Settings(backend="ascend")) == []


def test_every_fault_is_named_with_its_setting_as_it_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSE_GRAD_DEVICE_HANG_S", "5")
    with pytest.raises(SettingsError) as error:
        parse_command(["--tls-certificate", "a.pem", "--chunk-bytes", "5MiB"])
    lines = str(error.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "tls_key is ''",  # the missing one of the pair
        "MSE_GRAD_DEVICE_HANG_S is '5'",
        "--chunk-bytes is '5MiB'",
    ]
