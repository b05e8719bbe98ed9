"""Check of the address of direct connections, which clients of other hosts have to reach."""

from __future__ import annotations

from mse_grad_server.doctor.finding import Finding, ok, warning
from mse_grad_server.settings.model import Settings

__all__ = ["examine_direct"]

_SUBJECT = "direct connections"


def examine_direct(settings: Settings) -> Finding:
    """Returns the finding about the port of direct connections; it does not listen there."""
    address = settings.direct_address
    if address is None:
        return ok(_SUBJECT, "none; requests of other hosts take gRPC's streams")
    if address.port:
        more = ", the next port for each further worker" if settings.is_supervised else ""
        return ok(_SUBJECT, f"{address}{more}")
    if address.is_local:
        return ok(_SUBJECT, f"a free port of {address.host}")
    return warning(
        _SUBJECT,
        f"a free port of {address.host}, another one after each start",
        "if a firewall or a container's network is between clients and this host, choose one, such as "
        f"--direct-listen {address.with_port(50052)}, and let it through; until then requests take gRPC's slower "
        "streams",
    )
