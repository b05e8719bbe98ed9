"""Service links: variables that Kubernetes sets in each container for every Service of its namespace.

The links of a Service `mse-grad` or `mse-grad-metrics` look like settings: MSE_GRAD_PORT=tcp://10.0.0.1:50051. They are
recognized by the form of name and value (kubernetes/pkg/kubelet/envvars), so a misspelt setting does not pass for one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["service_links"]

_ADDRESS = r"[0-9a-f.:]+"
_FORMS = (
    (r"SERVICE_HOST", _ADDRESS),
    (r"SERVICE_PORT(_\w+)?", r"\d+"),
    (r"PORT(_\d+_(TCP|UDP|SCTP))?", rf"(tcp|udp|sctp)://(\[{_ADDRESS}\]|{_ADDRESS}):\d+"),
    (r"PORT_\d+_(TCP|UDP|SCTP)_PROTO", r"(tcp|udp|sctp)"),
    (r"PORT_\d+_(TCP|UDP|SCTP)_PORT", r"\d+"),
    (r"PORT_\d+_(TCP|UDP|SCTP)_ADDR", _ADDRESS),
)


def service_links(environment: Mapping[str, str], *, prefix: str) -> list[str]:
    """Returns the names of service links in `environment` that begin with `prefix`, such as "MSE_GRAD_".

    A link that the pod sets to "", to disable it, counts too.
    """
    begin = rf"{re.escape(prefix)}(\w+_)?"
    return sorted(
        name
        for name, value in environment.items()
        if any(
            re.fullmatch(begin + form, name) and (not value or re.fullmatch(values, value)) for form, values in _FORMS
        )
    )
