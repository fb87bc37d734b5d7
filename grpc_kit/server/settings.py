"""Settings from the environment: documented, validated at start and printed once."""

import os
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import structlog
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings

from grpc_kit.credentials import ServerTls
from grpc_kit.environment import unknown_variables

MEBIBYTE = 1024 * 1024
MAX_PORT = 65535
MAX_STREAMS = (
    "Most streams open over all connections. One more waits up to 5 s, and is refused with RESOURCE_EXHAUSTED then; a "
    "stream that was idle for 30 s is ended for it. A stream that waits for its next message may receive a largest one "
    "at any time, so this times *_MAX_MESSAGE_BYTES is a part of the memory that the service may need."
)

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
    metrics_address: str = Field(
        default="off",
        description="Address for Prometheus, HOST:PORT, which finds the metrics at /metrics over plain HTTP; port 0 "
        "takes a free one, off serves none.",
    )
    tls_certificate: Path | None = Field(
        default=None,
        description="File of the server's certificate and those between it and its authority's, PEM. Set with the key "
        "it turns TLS on. The files are read again when they change, for new connections.",
    )
    tls_key: Path | None = Field(default=None, description="File of the certificate's private key, PEM.")
    tls_client_ca: Path | None = Field(
        default=None,
        description="File of the authorities' certificates, PEM, whose clients alone may connect (mTLS). Unset: every "
        "client may. Probes of Kubernetes have no certificate: see docs/operate/security.md.",
    )
    tokens: SecretStr = Field(
        default=SecretStr(""),
        description='Tokens of which each call has to show one as "authorization: Bearer TOKEN", separated by commas '
        "so that they can be changed one by one; health is told without. Unset: nobody is asked.",
    )
    keepalive_seconds: float = Field(
        default=30.0,
        gt=0,
        description="Seconds without traffic after which a connection is tried; one that does not answer within 10 s "
        "is closed and its calls are cancelled. So a caller that vanished holds nothing for long.",
    )
    max_connection_age_seconds: float = Field(
        default=60.0,
        ge=1,
        description="Seconds after which a client is asked to connect again, give or take a tenth; calls under way "
        "are finished first, however long they take. It is how clients find replicas that were added: 15 in a cluster.",
    )
    max_concurrent_streams: int = Field(
        default=256,
        ge=1,
        description="Most calls of one connection at a time, unary ones too; a client waits with further ones.",
    )
    max_connections: int = Field(
        default=1000, ge=1, description="Most connections at a time; further ones are closed at once."
    )
    max_concurrent_calls: int = Field(
        default=512,
        ge=1,
        description="Most calls in flight over all connections, streams too; one more is refused with "
        "RESOURCE_EXHAUSTED. gRPC buffers up to 64 KiB of each before it is read. Calls of the health service do not "
        "count.",
    )
    max_streams: int = Field(default=32, ge=1, description=MAX_STREAMS)
    max_slow_requests: int = Field(
        default=4,
        ge=1,
        description="Most unary requests that take longer than 50 ms to arrive and are received at a time; one more "
        "is refused with RESOURCE_EXHAUSTED. Each may need *_MAX_MESSAGE_BYTES of memory while it arrives.",
    )
    max_bytes_in_flight: int = Field(
        default=320 * MEBIBYTE,
        ge=1,
        description="Most bytes of the messages of all unary calls in flight, except messages of up to 64 KiB; one "
        "more waits up to 5 s, and is refused with RESOURCE_EXHAUSTED then.",
    )
    max_unread_bytes: int = Field(
        default=32 * MEBIBYTE,
        ge=1,
        description="Most bytes of the answers of unary calls that callers have not read, except answers of up to "
        "64 KiB; one more waits up to 2 s, and is refused with RESOURCE_EXHAUSTED then.",
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

    @field_validator("listen_address", "metrics_address")
    @classmethod
    def _has_host_and_port(cls, address: str, info: ValidationInfo) -> str:
        address = address.strip()
        may_be_off = info.field_name == "metrics_address"
        if may_be_off and address == "off":
            return address
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or int(port) > MAX_PORT:
            raise ValueError(f"should be HOST:PORT, with a port of 0 to 65535{', or off' if may_be_off else ''}")
        return address

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if found := self.contradictions():
            raise ValueError("\n".join(found))
        return self

    def contradictions(self) -> list[str]:
        """Return a line for each contradiction between settings, without secrets."""
        found = []
        if (self.tls_certificate is None) != (self.tls_key is None):
            found.append("a certificate and its key are set together: *_TLS_CERTIFICATE and *_TLS_KEY")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            found.append("*_TLS_CLIENT_CA needs *_TLS_CERTIFICATE and *_TLS_KEY")
        if self.tokens.get_secret_value() and not self.token_list:
            # Such as "$OLD,$NEW" of two variables that are empty: an open door that was meant to be closed.
            found.append("*_TOKENS is set and has no token")
        return found

    @property
    def tls(self) -> ServerTls | None:
        """The server's files of TLS; None is plain text."""
        if self.tls_certificate is None or self.tls_key is None:
            return None
        return ServerTls(self.tls_certificate, self.tls_key, self.tls_client_ca)

    @property
    def token_list(self) -> list[str]:
        """The tokens, of which each call has to show one; none where nobody is asked."""
        return [token for token in (part.strip() for part in self.tokens.get_secret_value().split(",")) if token]


def load(settings: type[SettingsType], program: str) -> SettingsType:
    """Reads the settings; exits with a list of what is wrong. Answers `--help`, which names `program`."""
    arguments = sys.argv[1:]
    if arguments:
        wanted_help = arguments in (["-h"], ["--help"])
        print(describe(settings, program), file=sys.stdout if wanted_help else sys.stderr)
        sys.exit(0 if wanted_help else f"{program}: takes no arguments, only environment variables")
    problems = unknown_settings(settings)
    loaded = None
    try:
        loaded = settings()
    except ValidationError as error:
        problems += _problems(settings, error)
    exit_if(problems, program)
    assert loaded is not None  # noqa: S101 - else there are problems
    return loaded


def exit_if(problems: Sequence[str], program: str) -> None:
    """Exit with a list of the problems of the settings, if there are any."""
    if problems:
        sys.exit("\n".join([f"{program}: wrong settings:", *(f"  {problem}" for problem in problems)]))


def unknown_settings(settings: type[BaseSettings]) -> list[str]:
    """Return a line for each variable that has the prefix of the settings but is no setting."""
    # The names of settings are case-insensitive.
    known = variables(settings)
    others = {name: value for name, value in os.environ.items() if name.upper() not in known}
    return unknown_variables(_prefix(settings), known, others)


def variables(settings: type[BaseSettings]) -> set[str]:
    """Return the names of the environment variables of some settings."""
    return {f"{_prefix(settings)}{name.upper()}" for name in settings.model_fields}


def _problems(settings: type[BaseSettings], error: ValidationError) -> list[str]:
    """Return a line for each wrong value, with secrets hidden."""
    found: list[str] = []
    wrong: dict[str, Any] = {}
    for problem in error.errors():
        if not problem["loc"]:
            # Settings that contradict each other, without their values: some may be secrets.
            found += _said(problem)
            continue
        field = str(problem["loc"][0])
        wrong[field] = settings.model_fields[field].get_default()
        shown = "(hidden)" if settings.model_fields[field].annotation is SecretStr else repr(problem["input"])
        found.append(f"{_prefix(settings)}{field.upper()}={shown}: {' '.join(_said(problem))}")
    if wrong:
        # pydantic checks for contradictions only if each value is valid: check again without the invalid values.
        try:
            settings(**wrong)
        except ValidationError as more:
            lines = [line for problem in more.errors() if not problem["loc"] for line in _said(problem)]
            names = [f"{_prefix(settings)}{field.upper()}" for field in wrong]
            # What is said of a wrong value would be said of its default.
            found += [line for line in lines if not any(re.search(rf"\b{name}\b", line) for name in names)]
    return found


def _said(problem: ErrorDetails) -> list[str]:
    # The messages of our own validators need no prefix.
    return problem["msg"].removeprefix("Value error, ").splitlines()


def describe(settings: type[BaseSettings], program: str) -> str:
    """The text of `--help`: every variable with its default and its reason."""
    lines = [f"usage: {program}", "", (settings.__doc__ or "").strip(), "", "Environment variables:"]
    for name, field in settings.model_fields.items():
        lines += ["", f"  {_prefix(settings)}{name.upper()} (default: {_shown_default(field)})"]
        indent = " " * 6
        lines += textwrap.wrap(
            field.description or "", 100, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
        )
    return "\n".join(lines)


def as_markdown(settings: type[BaseSettings]) -> str:
    """A table of every variable, for the documentation."""
    lines = ["| variable | default | what it is, and why |", "|---|---|---|"]
    for name, field in settings.model_fields.items():
        variable = f"{_prefix(settings)}{name.upper()}"
        lines.append(f"| `{variable}` | `{_shown_default(field)}` | {field.description} |")
    return "\n".join(lines) + "\n"


def log_settings(settings: BaseSettings) -> None:
    """Logs every setting once, secrets hidden."""
    log.info("settings", **{name: str(value) for name, value in settings})


def _prefix(settings: type[BaseSettings]) -> str:
    return settings.model_config.get("env_prefix", "")


def _shown_default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    return "unset" if default is None or default == "" else str(default)
