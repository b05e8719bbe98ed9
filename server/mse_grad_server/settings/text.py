"""Settings as text: allowed values, effective values and their sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args, get_origin

import yaml
from pydantic import AfterValidator, ByteSize
from pydantic.fields import FieldInfo

from mse_grad_server.settings.model import Settings
from mse_grad_server.settings.value_types import size_text

__all__ = ["allowed", "as_yaml", "placeholder", "value_text"]


def allowed(field: FieldInfo) -> str:
    """Returns the allowed values of a setting, e.g. "1 to 256"; "" if only its description states them."""
    if get_origin(field.annotation) is Literal:
        return ", ".join(str(choice) for choice in get_args(field.annotation))
    if field.annotation is bool:
        return "true, false"
    bounds = {
        name: getattr(rule, name) for rule in field.metadata for name in ("gt", "ge", "le") if hasattr(rule, name)
    }
    if not bounds:
        return ""
    low = value_text(field, bounds["ge"]) if "ge" in bounds else f"more than {bounds['gt']}"
    return f"{low} to {value_text(field, bounds['le'])}"


def placeholder(field: FieldInfo) -> str:
    """Returns the placeholder for the value of a flag in a help text, e.g. "SIZE"."""
    if field.examples:
        return str(field.examples[0])
    if get_origin(field.annotation) is Literal:
        return f"{{{','.join(str(choice) for choice in get_args(field.annotation))}}}"
    for kind, text in ((ByteSize, "SIZE"), (int, "N"), (float, "SECONDS")):
        if field.annotation is kind:
            return text
    if any(isinstance(rule, AfterValidator) for rule in field.metadata):
        return "ADDRESS"
    return "NAMES" if field.metadata else "PATH"


def value_text(field: FieldInfo, value: object) -> str:
    """Returns `value` as a user would write it in YAML, e.g. "64MiB"."""
    if field.annotation is ByteSize and isinstance(value, int):
        return size_text(value)
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()


def _rounded_up(size_bytes: int) -> str:
    """Returns a size with at most one decimal, rounded up, e.g. "81.8GiB"."""
    for unit, unit_bytes in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size_bytes >= unit_bytes:
            tenths = -(-size_bytes * 10 // unit_bytes)
            return f"{tenths / 10:.1f}".removesuffix(".0") + unit
    return str(size_bytes)


def as_yaml(settings: Settings, origins: Mapping[str, str]) -> str:
    """Returns the settings as YAML for --config, with the source of each value, and the values derived from them."""
    rows = [
        (f"{name}: {value_text(field, getattr(settings, name))}", origins.get(name, "default"))
        for name, field in Settings.model_fields.items()
    ]
    has_direct = settings.direct_listen != "none"
    messages, windows = 7 if has_direct else 3, 1 + has_direct + settings.shared_memory
    derived = [
        (
            f"receive_limit_bytes: {_rounded_up(settings.receive_limit_bytes)}",
            "twice the largest message; the limit of gRPC",
        ),
        (
            f"unary_memory_bytes: {_rounded_up(settings.unary_memory_bytes)}",
            "receive_limit_bytes x max_unary_in_flight",
        ),
        (
            f"window_bytes: {_rounded_up(settings.window_bytes)}",
            "4 x chunk_bytes x window_chunks; unanswered bytes of one stream",
        ),
        (
            f"most_memory_bytes: {_rounded_up(settings.most_memory_bytes)}",
            f"max_streams x (receive_limit_bytes + {messages} x max_stream_message_bytes + {windows} x window_bytes, "
            "and what holds them) + "
            "max_unary_in_flight x (receive_limit_bytes + max_unary_bytes) + "
            "max_small_calls x (receive_limit_bytes + max_small_message_bytes)",
        ),
    ]
    width = max(len(text) for text, _ in [*rows, *derived])
    lines = [f"{text:<{width}}  # {origin}" for text, origin in rows]
    lines += ["# Derived, rounded up:", *(f"# {text:<{width}}  {origin}" for text, origin in derived)]
    return "\n".join(lines) + "\n"
