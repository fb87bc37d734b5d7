"""Settings from environment variables: documented, validated at start and logged once."""

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
    "Maximum number of open streams, over all connections. Another stream waits up to 5 s and is then refused with "
    "RESOURCE_EXHAUSTED; it may replace a stream that was idle for 30 s. Each open stream may receive a message of "
    "maximum size at any time, so the service may need this number times *_MAX_MESSAGE_BYTES of memory."
)

log = structlog.stdlib.get_logger()

SettingsType = TypeVar("SettingsType", bound=BaseSettings)


class ServerSettings(BaseSettings):
    """Settings of every server."""

    listen_address: str = Field(
        default="127.0.0.1:0",
        description="Address to listen on, HOST:PORT; port 0 chooses a free port. The default is loopback, so that a "
        "server without TLS is not reachable from other machines by accident.",
    )
    max_message_bytes: int = Field(
        default=24 * MEBIBYTE,
        gt=0,
        description="Maximum size of a gRPC message in bytes. Keep it above the maximum size of an image: the "
        "service's own error for a large image says more than gRPC's error for a large message.",
    )
    metrics_address: str = Field(
        default="off",
        description="Address of the Prometheus metrics, HOST:PORT. They are at /metrics over plain HTTP. Port 0 "
        "chooses a free port; off serves no metrics.",
    )
    tls_certificate: Path | None = Field(
        default=None,
        description="PEM file with the server's certificate and the intermediate certificates. Together with the key "
        "it turns TLS on. If the files change, new connections use the new files.",
    )
    tls_key: Path | None = Field(default=None, description="PEM file with the certificate's private key.")
    tls_client_ca: Path | None = Field(
        default=None,
        description="PEM file with the certificates of authorities. Only clients with a certificate of such an "
        "authority may connect (mTLS). Unset: every client may connect. Kubernetes' own probes have no certificate: "
        "see docs/operate/security.md.",
    )
    tokens: SecretStr = Field(
        default=SecretStr(""),
        description='Valid tokens, separated by commas. Each call must send one as "authorization: Bearer TOKEN"; '
        "health calls need none. With several tokens, callers can change to a new one at different times. Unset: "
        "calls need no token.",
    )
    keepalive_seconds: float = Field(
        default=30.0,
        gt=0,
        description="Seconds without traffic after which the server pings a client. If the client does not answer "
        "within 10 s, the server closes the connection and cancels its calls, so that a lost client holds no "
        "resources.",
    )
    max_connection_age_seconds: float = Field(
        default=60.0,
        ge=1,
        description="Seconds after which a client is asked to reconnect, plus or minus 10 %; calls in flight finish "
        "first. Clients find new replicas when they reconnect: set it to 15 in a cluster.",
    )
    max_concurrent_streams: int = Field(
        default=256,
        ge=1,
        description="Maximum number of concurrent calls of one connection, unary calls and streams. The client delays "
        "further calls.",
    )
    max_connections: int = Field(
        default=1000, ge=1, description="Maximum number of connections; further connections are closed immediately."
    )
    max_concurrent_calls: int = Field(
        default=512,
        ge=1,
        description="Maximum number of calls in flight over all connections, including streams. Another call is "
        "refused with RESOURCE_EXHAUSTED. gRPC buffers up to 64 KiB of each call. Health calls do not count.",
    )
    max_streams: int = Field(default=32, ge=1, description=MAX_STREAMS)
    max_slow_requests: int = Field(
        default=4,
        ge=1,
        description="Maximum number of unary requests that are received at a time and take longer than 50 ms to "
        "arrive. Another one is refused with RESOURCE_EXHAUSTED. Each may need *_MAX_MESSAGE_BYTES of memory while it "
        "arrives.",
    )
    max_bytes_in_flight: int = Field(
        default=320 * MEBIBYTE,
        ge=1,
        description="Maximum bytes of the requests of all unary calls in flight; requests of up to 64 KiB do not "
        "count. Another request waits up to 5 s and is then refused with RESOURCE_EXHAUSTED.",
    )
    max_unread_bytes: int = Field(
        default=32 * MEBIBYTE,
        ge=1,
        description="Maximum bytes of unary responses that callers have not read; responses of up to 64 KiB do not "
        "count. Another response waits up to 2 s and is then refused with RESOURCE_EXHAUSTED.",
    )
    drain_seconds: float = Field(
        default=20.0,
        ge=0,
        description="Seconds that calls in flight have to finish after SIGTERM. Keep it below Kubernetes' grace "
        "period, 30 s by default.",
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="Format of log lines: json, one object per line, or console, text for people."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Minimum level of log lines. INFO logs one line per call."
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
            found.append("set *_TLS_CERTIFICATE and *_TLS_KEY together, or neither")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            found.append("*_TLS_CLIENT_CA needs *_TLS_CERTIFICATE and *_TLS_KEY")
        if self.tokens.get_secret_value() and not self.token_list:
            # Such as "$OLD,$NEW" with two empty variables: the operator meant to require tokens.
            found.append("*_TOKENS is set but contains no token")
        return found

    @property
    def tls(self) -> ServerTls | None:
        """Return the server's TLS files; None means plain text."""
        if self.tls_certificate is None or self.tls_key is None:
            return None
        return ServerTls(self.tls_certificate, self.tls_key, self.tls_client_ca)

    @property
    def token_list(self) -> list[str]:
        """Return the valid tokens; an empty list means that calls need none."""
        return [token for token in (part.strip() for part in self.tokens.get_secret_value().split(",")) if token]


def load(settings: type[SettingsType], program: str) -> SettingsType:
    """Read the settings, or exit with a list of problems. With `--help`, print the settings of `program`."""
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
            # A contradiction of a default value that replaces an invalid value would mislead.
            found += [line for line in lines if not any(re.search(rf"\b{name}\b", line) for name in names)]
    return found


def _said(problem: ErrorDetails) -> list[str]:
    # The messages of our own validators need no prefix.
    return problem["msg"].removeprefix("Value error, ").splitlines()


def describe(settings: type[BaseSettings], program: str) -> str:
    """Return the text of `--help`: every variable with its default and description."""
    lines = [f"usage: {program}", "", (settings.__doc__ or "").strip(), "", "Environment variables:"]
    for name, field in settings.model_fields.items():
        lines += ["", f"  {_prefix(settings)}{name.upper()} (default: {_shown_default(field)})"]
        indent = " " * 6
        lines += textwrap.wrap(
            field.description or "", 100, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
        )
    return "\n".join(lines)


def as_markdown(settings: type[BaseSettings]) -> str:
    """Return a Markdown table of every variable, for the documentation."""
    lines = ["| variable | default | description |", "|---|---|---|"]
    for name, field in settings.model_fields.items():
        variable = f"{_prefix(settings)}{name.upper()}"
        lines.append(f"| `{variable}` | `{_shown_default(field)}` | {field.description} |")
    return "\n".join(lines) + "\n"


def log_settings(settings: BaseSettings) -> None:
    """Log every setting; secrets are hidden."""
    log.info("settings", **{name: str(value) for name, value in settings})


def _prefix(settings: type[BaseSettings]) -> str:
    return settings.model_config.get("env_prefix", "")


def _shown_default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    return "unset" if default is None or default == "" else str(default)
