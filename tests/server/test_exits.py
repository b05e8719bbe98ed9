from __future__ import annotations

from mse_grad_server import exits
from mse_grad_server.exits import ExitCode, SettingsError, StartError


def test_every_public_name_exists() -> None:
    assert set(exits.__all__) <= set(vars(exits))


def test_every_way_of_not_starting_has_an_exit_code_of_its_own() -> None:
    codes = [kind.exit_code for kind in StartError.__subclasses__()]
    assert len(set(codes)) == len(codes)
    assert ExitCode.OK not in codes
    assert SettingsError.exit_code == 2
