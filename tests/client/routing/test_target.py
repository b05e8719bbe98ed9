"""Addresses that name many servers."""

from __future__ import annotations

import pytest

from mse_grad_client.routing.target import Target, look_up


@pytest.mark.parametrize(
    ("address", "entries"),
    [
        ("host:1", [("host:1", False)]),
        ("unix:/a", [("unix:/a", False)]),
        ("dns:///host:1", [("host:1", True)]),
        ("dns:///10.0.0.1:1", [("10.0.0.1:1", False)]),
        ("dns:///[::1]:1", [("[::1]:1", False)]),
        ("ipv4:10.0.0.1:1,10.0.0.2:2", [("10.0.0.1:1", False), ("10.0.0.2:2", False)]),
        ("ipv6:[::1]:1,[fd00::2]:2", [("[::1]:1", False), ("[fd00::2]:2", False)]),
        ("ipv4:1", [("ipv4:1", False)]),
        ("dns:1", [("dns:1", False)]),
        (["a:1", "b:2", "a:1"], [("a:1", False), ("b:2", False)]),
        (("dns:///a:1", "unix:/b", "ipv4:10.0.0.1:1"), [("a:1", True), ("unix:/b", False), ("10.0.0.1:1", False)]),
    ],
)
def test_every_form_is_read(address: str | list[str], entries: list[tuple[str, bool]]) -> None:
    assert [tuple(entry) for entry in Target.of(address).entries] == entries


@pytest.mark.parametrize(
    ("address", "has_many"),
    [
        ("host:1", False),
        (["host:1"], False),
        ("dns:///10.0.0.1:1", False),
        ("dns:///host:1", True),
        (["a:1", "b:1"], True),
    ],
)
def test_one_address_is_one_server_and_a_name_may_be_many(address: str | list[str], has_many: bool) -> None:
    assert Target.of(address).has_many is has_many


@pytest.mark.parametrize(
    "address",
    [
        "",
        "host",
        [],
        [1],
        None,
        7,
        b"host:1",
        [["host:1"]],
        "dns:///host",
        "dns:///host:0",
        "dns://8.8.8.8/host:1",
        "ipv4:host:1",
        "ipv4:[::1]:1",
        "ipv6:10.0.0.1:1",
        "ipv4:10.0.0.1:1,",
        "ipv4:10.0.0.1",
        "host:1,host:2",
        ["host:1", "host"],
    ],
)
def test_every_other_form_is_refused(address: object) -> None:
    with pytest.raises(ValueError, match=r"address is .*(it must be|after 'ipv)"):
        Target.of(address)  # type: ignore[arg-type]


def test_the_text_of_a_target_names_every_entry() -> None:
    assert str(Target.of(["dns:///a:1", "b:2"])) == "dns:///a:1, b:2"


def test_the_system_looks_names_up() -> None:
    assert "127.0.0.1:7" in look_up("localhost", 7)
