"""Settings from the environment: documented, validated at start and printed once."""

import os
import sys
import textwrap
from typing import Literal, TypeVar

import structlog
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

MEBIBYTE = 1024 * 1024
MAX_PORT = 65535

log = structlog.stdlib.get_logger()

SettingsType = TypeVar("SettingsType", bound=BaseSettings)


class ServerSettings(BaseSettings):
    """The settings that every server has."""

    listen_address: str = Field(
        default="127.0.0.1:0",
        description="Address to serve on, HOST:PORT; port 0 takes a free one. Loopback unless told otherwise, because "
        "a server without TLS should not be reachable by accident.",
    )
    max_message_bytes: int = Field(
        default=24 * MEBIBYTE,
        gt=0,
        description="Largest gRPC message in bytes. gRPC itself refuses larger ones, so it stays above the largest "
        "image, whose refusal says more.",
    )
    drain_seconds: float = Field(
        default=20.0,
        ge=0,
        description="Seconds that calls under way get to end after SIGTERM. Below the 30 s that Kubernetes waits.",
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="json for machines, one object a line; console for people."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least severe level to log. INFO has one line for each call."
    )

    @field_validator("listen_address")
    @classmethod
    def _has_host_and_port(cls, address: str) -> str:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or int(port) > MAX_PORT:
            raise ValueError("should be HOST:PORT, with a port of 0 to 65535")
        return address


def load(settings: type[SettingsType], program: str) -> SettingsType:
    """Reads the settings; exits with a list of what is wrong. Answers `--help`, which names `program`."""
    arguments = sys.argv[1:]
    if arguments:
        wanted_help = arguments in (["-h"], ["--help"])
        print(describe(settings, program), file=sys.stdout if wanted_help else sys.stderr)
        sys.exit(0 if wanted_help else f"{program}: takes no arguments, only environment variables")
    try:
        return settings()
    except ValidationError as error:
        lines = [f"{program}: wrong settings:"]
        for problem in error.errors():
            field = str(problem["loc"][0]) if problem["loc"] else ""
            secret = field in settings.model_fields and settings.model_fields[field].annotation is SecretStr
            shown = "(hidden)" if secret else repr(problem["input"])
            lines.append(f"  {_prefix(settings)}{field.upper()}={shown}: {problem['msg']}")
        sys.exit("\n".join(lines))


def describe(settings: type[BaseSettings], program: str) -> str:
    """The text of `--help`: every variable with its default and its reason."""
    lines = [f"usage: {program}", "", (settings.__doc__ or "").strip(), "", "Environment variables:"]
    for name, field in settings.model_fields.items():
        lines += ["", f"  {_prefix(settings)}{name.upper()} (default: {_shown_default(field)})"]
        lines += textwrap.wrap(field.description or "", 100, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def as_markdown(settings: type[BaseSettings]) -> str:
    """A table of every variable, for the documentation."""
    lines = ["| variable | default | what it is, and why |", "|---|---|---|"]
    for name, field in settings.model_fields.items():
        variable = f"{_prefix(settings)}{name.upper()}"
        lines.append(f"| `{variable}` | `{_shown_default(field)}` | {field.description} |")
    return "\n".join(lines) + "\n"


def log_settings(settings: BaseSettings) -> None:
    """Logs every setting once, secrets hidden, and warns of variables that look like one and are none."""
    log.info("settings", **{name: str(value) for name, value in settings})
    prefix = _prefix(type(settings))
    known = {f"{prefix}{name.upper()}" for name in type(settings).model_fields}
    for name in sorted(os.environ):
        if name.startswith(prefix) and name not in known:
            log.warning("unknown setting is ignored", name=name)


def _prefix(settings: type[BaseSettings]) -> str:
    return settings.model_config.get("env_prefix", "")


def _shown_default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    return "unset" if default is None or default == "" else str(default)
