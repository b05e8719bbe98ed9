"""Sources of the settings: flags override variables `MSE_GRAD_*`, which override YAML, which overrides defaults."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml
from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource

from mse_grad_server.process.environment import EXPERIMENTS_VARIABLE
from mse_grad_server.process.exits import SettingsError
from mse_grad_server.process.standard_streams import print_text
from mse_grad_server.settings.groups import GROUPS
from mse_grad_server.settings.model import ENVIRONMENT_PREFIX, Settings
from mse_grad_server.settings.service_links import service_links
from mse_grad_server.settings.text import allowed, placeholder, value_text

__all__ = ["Command", "flag_of", "parse_command", "variable_of"]

_CONFIG_VARIABLE = f"{ENVIRONMENT_PREFIX}CONFIG"


@dataclass(frozen=True)
class Command:
    """A parsed command line.

    Attributes:
        settings: The merged settings.
        origins: Setting -> source of its value: "--listen", "MSE_GRAD_LISTEN" or "listen in /etc/mse-grad.yaml".
            Settings with their defaults are missing.
        print_config: Whether to print the settings and exit.
        version: Whether to print the version and exit.
        service_links: Ignored variables, which Kubernetes set for a Service of this name.
    """

    settings: Settings
    origins: Mapping[str, str]
    print_config: bool
    version: bool
    service_links: Sequence[str] = ()


def parse_command(arguments: Sequence[str]) -> Command:
    """Merges `arguments`, the environment and the YAML file; empty variables do not count.

    Raises:
        OutputError: The requested help cannot be printed.
        SettingsError: A flag, variable or key is unknown, or a value is not allowed. The message has one line for each,
            which names the setting as the user wrote it.
    """
    flags = vars(_parser().parse_args(arguments))
    print_config, version = flags.pop("print_config"), flags.pop("version")
    config_file = flags.pop("config") or os.environ.get(_CONFIG_VARIABLE)
    links = service_links(os.environ, prefix=ENVIRONMENT_PREFIX)
    _check_variables(links)
    layers: list[tuple[dict[str, Any], Callable[[str], str]]] = [
        (_grpc_values(), lambda _: EXPERIMENTS_VARIABLE),
        (_file_values(config_file), lambda name: f"{name} in {config_file}"),
        (EnvSettingsSource(Settings, env_ignore_empty=True)(), variable_of),
        (flags, flag_of),
    ]
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer, origin_of in layers:
        values.update(layer)
        origins.update({name: origin_of(name) for name in layer})
    # pydantic-settings would accept names in any case, and names of its own, such as `_env_file`.
    named = {name: value for name, value in values.items() if name in Settings.model_fields}
    known = ", ".join(Settings.model_fields)
    faults = [f"{origins[name]} is not a setting; the settings are {known}" for name in values if name not in named]
    try:
        settings = Settings(**named)
    except ValidationError as error:
        raise SettingsError("\n".join([*faults, *(_line(entry, origins) for entry in error.errors())])) from error
    if faults:
        raise SettingsError("\n".join(faults))
    return Command(settings, origins, print_config, version, links)


def flag_of(name: str) -> str:
    """Returns the flag of a setting, e.g. "--max-streams"."""
    return f"--{name.replace('_', '-')}"


def variable_of(name: str) -> str:
    """Returns the environment variable of a setting, e.g. "MSE_GRAD_MAX_STREAMS"."""
    return f"{ENVIRONMENT_PREFIX}{name.upper()}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message}; --help lists the flags")

    def print_help(self, file: Any = None) -> None:
        print_text(self.format_help())


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="mse-grad-server",
        usage="mse-grad-server [flags]\n       mse-grad-server {doctor,probe} [flags]",
        description="Serves gradients of the mean squared error over gRPC. The command `doctor` looks for problems of "
        "this host and says how to fix them, and `probe` asks a running server whether it accepts requests; both take "
        "the same flags.",
        epilog=f"Each setting is a flag, a variable such as {variable_of('max_streams')}, and a key of the YAML file "
        "such as max_streams. Flags override variables, and variables override the file.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help=f"YAML file with settings (variable {_CONFIG_VARIABLE})")
    parser.add_argument("--print-config", action="store_true", help="print the effective settings as YAML and exit")
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    for title, names in GROUPS.items():
        group = parser.add_argument_group(title)
        for name in names:
            field = Settings.model_fields[name]
            # argparse reads a per cent sign in a help text as a format.
            default = value_text(field, field.get_default(call_default_factory=True, validated_data={}))
            text = f"{field.description} (default: {default})".replace("%", "%%")
            if field.annotation is bool:
                group.add_argument(
                    flag_of(name), action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text
                )
            else:
                group.add_argument(flag_of(name), metavar=placeholder(field), default=argparse.SUPPRESS, help=text)
    return parser


def _check_variables(links: Sequence[str]) -> None:
    known = {variable_of(name) for name in Settings.model_fields} | {_CONFIG_VARIABLE, *links}
    unknown = sorted(
        name for name in os.environ if name.upper().startswith(ENVIRONMENT_PREFIX) and name.upper() not in known
    )
    if unknown:
        raise SettingsError(
            "\n".join(f"{name} is not a variable of this server; --help lists the settings" for name in unknown)
        )


def _grpc_values() -> dict[str, Any]:
    experiments = os.environ.get(EXPERIMENTS_VARIABLE)
    return {} if experiments is None else {"grpc_experiments": experiments}


def _file_values(path: str | None) -> dict[str, Any]:
    if not path:
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            values = yaml.load(file, _Loader)  # noqa: S506 - a SafeLoader
    except OSError as cause:
        raise SettingsError(f"--config {path}: {cause.strerror}") from cause
    except _AmbiguousNumber as cause:
        raise SettingsError(f"--config {path}, {cause}") from cause
    except (yaml.YAMLError, ValueError, RecursionError) as cause:  # an impossible date is a ValueError
        raise SettingsError(f"--config {path} is not YAML: {cause}") from cause
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise SettingsError(f"--config {path} must hold settings as 'name: value', nothing else")
    return values


class _AmbiguousNumber(Exception):
    pass


class _Loader(yaml.SafeLoader):
    """Rejects ambiguous numbers, since in YAML 1.1 010 is eight and 1:30 is ninety, and duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in names:
                raise yaml.constructor.ConstructorError(problem=f"found {key.value} again", problem_mark=key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                names.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        _require(r"[-+]?(0|[1-9][0-9]*)", node)
        return int(node.value)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        _require(r"[^:_]*", node)
        return super().construct_yaml_float(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)


def _require(form: str, node: yaml.ScalarNode) -> None:
    if not re.fullmatch(form, node.value):
        raise _AmbiguousNumber(
            f"line {node.start_mark.line + 1}: YAML reads {node.value} as a different number from the one it looks "
            "like; write it in decimal digits without leading zeros, or in quotes"
        )


def _line(entry: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    name = str(entry["loc"][0])
    where = origins.get(name, name)
    message = str(entry["msg"]).removeprefix("Value error, ")
    bounds = allowed(Settings.model_fields[name])
    return f"{where} is {entry['input']!r}: {message}{f' (allowed: {bounds})' if bounds else ''}"
