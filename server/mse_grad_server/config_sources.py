"""Reads the settings: flags > variables `MSE_GRAD_*` > YAML > defaults, with where each value came from."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml
from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource, YamlConfigSettingsSource

from mse_grad_server.config import ENVIRONMENT_PREFIX, Settings
from mse_grad_server.config_text import allowed, placeholder, value_text
from mse_grad_server.exits import SettingsError
from mse_grad_server.grpc_environment import EXPERIMENTS_VARIABLE

__all__ = ["Command", "flag_of", "parse_command", "variable_of"]

_CONFIG_VARIABLE = f"{ENVIRONMENT_PREFIX}CONFIG"


@dataclass(frozen=True)
class Command:
    """What the command line asks for.

    Attributes:
        settings: The merged settings.
        origins: Setting -> where its value stands, e.g. "--listen", "MSE_GRAD_LISTEN", "listen in /etc/mse-grad.yaml".
            A setting that has its default is missing.
        print_config: Whether to print the settings and end.
        version: Whether to print the version and end.
    """

    settings: Settings
    origins: Mapping[str, str]
    print_config: bool
    version: bool


def parse_command(arguments: Sequence[str]) -> Command:
    """Returns what `arguments`, the environment and the YAML file say together.

    Raises:
        SettingsError: A flag, a variable or a key is unknown, or a value is not allowed; the message has one line for
            each, with the setting as it was written.
    """
    flags = vars(_parser().parse_args(arguments))
    print_config, version = flags.pop("print_config"), flags.pop("version")
    config_file = flags.pop("config") or os.environ.get(_CONFIG_VARIABLE)
    _check_variables()
    layers: list[tuple[dict[str, Any], Callable[[str], str]]] = [
        (_grpc_values(), lambda _: EXPERIMENTS_VARIABLE),
        (_file_values(config_file), lambda name: f"{name} in {config_file}"),
        (EnvSettingsSource(Settings)(), variable_of),
        (flags, flag_of),
    ]
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer, origin_of in layers:
        values.update(layer)
        origins.update({name: origin_of(name) for name in layer})
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise SettingsError("\n".join(_line(entry, origins) for entry in error.errors())) from error
    return Command(settings, origins, print_config, version)


def flag_of(name: str) -> str:
    """Returns the flag of a setting, e.g. "--max-streams"."""
    return f"--{name.replace('_', '-')}"


def variable_of(name: str) -> str:
    """Returns the environment variable of a setting, e.g. "MSE_GRAD_MAX_STREAMS"."""
    return f"{ENVIRONMENT_PREFIX}{name.upper()}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message}; --help lists the flags")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="mse-grad-server",
        description="Serves gradients of the mean squared error over gRPC.",
        epilog=f"Each flag is also a variable, e.g. {variable_of('max_streams')}, and a key of the YAML file, e.g. "
        "max_streams. Flags override variables, variables override the file.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help=f"YAML file of settings ({_CONFIG_VARIABLE})")
    parser.add_argument("--print-config", action="store_true", help="print the settings that hold, as YAML, and end")
    parser.add_argument("--version", action="store_true", help="print the version and end")
    for name, field in Settings.model_fields.items():
        # argparse takes a per cent sign in a help text for a format.
        default = value_text(field, field.get_default(call_default_factory=True, validated_data={}))
        text = f"{field.description} (default: {default})".replace("%", "%%")
        if field.annotation is bool:
            parser.add_argument(
                flag_of(name), action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text
            )
        else:
            parser.add_argument(flag_of(name), metavar=placeholder(field), default=argparse.SUPPRESS, help=text)
    return parser


def _check_variables() -> None:
    known = {variable_of(name) for name in Settings.model_fields} | {_CONFIG_VARIABLE}
    unknown = sorted(
        name for name in os.environ if name.upper().startswith(ENVIRONMENT_PREFIX) and name.upper() not in known
    )
    if unknown:
        raise SettingsError(
            "\n".join(f"{name} is no variable of this server; --help lists the settings" for name in unknown)
        )


def _grpc_values() -> dict[str, Any]:
    experiments = os.environ.get(EXPERIMENTS_VARIABLE)
    return {} if experiments is None else {"grpc_experiments": experiments}


def _file_values(path: str | None) -> dict[str, Any]:
    if not path:
        return {}
    not_settings = SettingsError(f"--config {path} must hold settings as 'name: value', nothing else")
    try:
        with open(path, encoding="utf-8"):
            values = YamlConfigSettingsSource(Settings, yaml_file=path, yaml_file_encoding="utf-8")()
    except OSError as cause:
        raise SettingsError(f"--config {path}: {cause.strerror}") from cause
    except (yaml.YAMLError, UnicodeDecodeError) as cause:
        raise SettingsError(f"--config {path} is not YAML: {cause}") from cause
    except (TypeError, ValueError, AttributeError) as cause:
        raise not_settings from cause
    if not all(isinstance(name, str) for name in values):
        raise not_settings
    return values


def _line(entry: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    name = str(entry["loc"][0])
    where = origins.get(name, name)
    if entry["type"] == "extra_forbidden":
        return f"{where} is no setting; known are {', '.join(Settings.model_fields)}"
    message = str(entry["msg"]).removeprefix("Value error, ")
    bounds = allowed(Settings.model_fields[name])
    return f"{where} is {entry['input']!r}: {message}{f' (allowed: {bounds})' if bounds else ''}"
