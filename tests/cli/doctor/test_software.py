"""What the doctor says of the client's own software."""

from __future__ import annotations

from mse_grad_cli.doctor import Finding, Level, examine_software
from mse_grad_cli.doctor.software import missing_of_extra, version_of


def found(**versions: str | None) -> dict[str, Finding]:
    def told(name: str) -> str | None:
        return versions[name] if name in versions else version_of(name)

    return {finding.subject: finding for finding in examine_software(told, python=(3, 11))}


def test_the_installation_of_the_tests_has_no_problems() -> None:
    findings = found()
    assert {"mse-grad", "python", "grpcio", "protobuf", "numpy"} <= set(findings)
    assert {finding.level for finding in findings.values()} == {Level.OK}
    assert findings["numpy"].text == version_of("numpy")


def test_a_version_below_the_bound_is_an_error_with_the_command_that_helps() -> None:
    finding = found(grpcio="1.9.2")["grpcio"]
    assert finding.level is Level.ERROR
    assert finding.text == "1.9.2 does not satisfy >=1.76"
    assert finding.advice == "pip install 'grpcio>=1.76'"


def test_a_version_past_the_upper_bound_is_an_error() -> None:
    assert found(protobuf="8.0.0")["protobuf"].level is Level.ERROR
    assert found(protobuf="7.99.1")["protobuf"].level is Level.OK


def test_a_library_that_is_missing_is_an_error() -> None:
    finding = found(numpy=None)["numpy"]
    assert (finding.level, finding.text) == (Level.ERROR, "is not installed")


def test_a_python_newer_than_the_tested_ones_is_a_warning() -> None:
    (finding,) = [each for each in examine_software(python=(3, 14)) if each.subject == "python"]
    assert finding.level is Level.WARNING


def test_missing_packages_of_an_extra_are_named() -> None:
    assert missing_of_extra("cli", lambda name: None) == ["click", "rich"]
    assert missing_of_extra("cli", lambda name: "1.0") == []
