"""Settings are read from the environment, and faults are reported by name."""

import re
import sys
from pathlib import Path

import pytest
import structlog
from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from embedder_service.settings import EmbedderSettings
from grpc_kit.server.settings import ServerSettings, describe, load, log_settings
from search_service.settings import SearchSettings


class Example(ServerSettings):
    """An example of a service."""

    model_config = SettingsConfigDict(env_prefix="EXAMPLE_")

    share: float = Field(default=0.25, ge=0, le=1, description="Part of something, in 0..1.")
    token: SecretStr = Field(default=SecretStr(""), description="What to show at the door.")


@pytest.fixture(autouse=True)
def no_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["example"])


def refusal(settings: type[ServerSettings] = Example) -> str:
    with pytest.raises(SystemExit) as left:
        load(settings, "python -m example")
    return str(left.value.code)


def test_settings_come_from_variables_with_the_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLE_SHARE", "0.5")
    monkeypatch.setenv("SHARE", "0.75")
    monkeypatch.setenv("EXAMPLE_LISTEN_ADDRESS", "0.0.0.0:1234")
    settings = load(Example, "python -m example")
    assert (settings.share, settings.listen_address, settings.log_level) == (0.5, "0.0.0.0:1234", "INFO")


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("EXAMPLE_SHARE", "1.5", "less than or equal to 1"),
        ("EXAMPLE_SHARE", "half", "valid number"),
        ("EXAMPLE_MAX_MESSAGE_BYTES", "-1", "greater than 0"),
        ("EXAMPLE_MAX_MESSAGE_BYTES", "2.5", "valid integer"),
        ("EXAMPLE_MAX_MESSAGE_BYTES", "0", "greater than 0"),
        ("EXAMPLE_DRAIN_SECONDS", "-1", "greater than or equal to 0"),
        ("EXAMPLE_LOG_FORMAT", "xml", "'console' or 'json'"),
        ("EXAMPLE_LOG_LEVEL", "LOUD", "'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
        ("EXAMPLE_LISTEN_ADDRESS", "localhost", "HOST:PORT"),
        ("EXAMPLE_LISTEN_ADDRESS", "127.0.0.1:http", "HOST:PORT"),
        ("EXAMPLE_LISTEN_ADDRESS", "127.0.0.1:65536", "HOST:PORT"),
        ("EXAMPLE_LISTEN_ADDRESS", "off", "HOST:PORT"),
        ("EXAMPLE_METRICS_ADDRESS", "9090", "HOST:PORT"),
        ("EXAMPLE_METRICS_ADDRESS", "OFF", "HOST:PORT"),
        ("EXAMPLE_KEEPALIVE_SECONDS", "0", "greater than 0"),
        ("EXAMPLE_MAX_CONNECTION_AGE_SECONDS", "0.5", "greater than or equal to 1"),
        ("EXAMPLE_MAX_CONCURRENT_STREAMS", "0", "greater than or equal to 1"),
    ],
)
def test_a_wrong_value_is_refused_with_variable_value_and_problem(
    name: str, value: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    message = refusal()
    assert message.startswith("python -m example: wrong settings:\n")
    assert f"{name}={value!r}" in message
    assert problem in message


def test_metrics_are_off_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(Example, "python -m example").metrics_address == "off"
    for address in ("off", "0.0.0.0:9090"):
        monkeypatch.setenv("EXAMPLE_METRICS_ADDRESS", address)
        assert load(Example, "python -m example").metrics_address == address


def test_all_wrong_values_are_reported_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLE_SHARE", "2")
    monkeypatch.setenv("EXAMPLE_DRAIN_SECONDS", "many")
    assert re.findall(r"EXAMPLE_\w+", refusal()) == ["EXAMPLE_DRAIN_SECONDS", "EXAMPLE_SHARE"]


def test_unknown_names_wrong_values_and_contradictions_are_reported_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLE_DRAIN_SECOND", "hunter2")
    monkeypatch.setenv("EXAMPLE_SHARE", "2")
    monkeypatch.setenv("EXAMPLE_TLS_CERTIFICATE", "server.pem")
    monkeypatch.setenv("EXAMPLE_TLS_CLIENT_CA", "ca.pem")
    monkeypatch.setenv("EXAMPLE_TOKENS", " ,")
    assert refusal().splitlines() == [
        "python -m example: wrong settings:",
        "  EXAMPLE_DRAIN_SECOND: this setting does not exist; did you mean EXAMPLE_DRAIN_SECONDS?",
        "  EXAMPLE_SHARE='2': Input should be less than or equal to 1",
        "  set *_TLS_CERTIFICATE and *_TLS_KEY together, or neither",
        "  *_TOKENS is set but contains no token",
    ]


@pytest.mark.parametrize(
    ("settings", "name"), [(EmbedderSettings, "EMBEDDER_PRECISON"), (SearchSettings, "SEARCH_TSL")]
)
def test_an_unknown_setting_stops_the_start(
    settings: type[ServerSettings], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "")
    load(settings, "python -m example")
    monkeypatch.setenv(name, "float32")
    assert f"  {name}: this setting does not exist; did you mean " in refusal(settings)


def test_names_of_settings_are_case_insensitive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("example_share", "0.5")
    assert load(Example, "python -m example").share == 0.5


def test_variables_of_kubernetes_services_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLE_SERVICE_HOST", "10.96.0.12")
    monkeypatch.setenv("EXAMPLE_PORT_50051_TCP", "tcp://10.96.0.12:50051")
    assert load(Example, "python -m example").share == 0.25
    monkeypatch.setenv("EXAMPLE_SERVICE_HOSTS", "10.96.0.12")
    assert "EXAMPLE_SERVICE_HOSTS" in refusal()


def test_spaces_around_an_address_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLE_LISTEN_ADDRESS", " 127.0.0.1:1234 ")
    assert load(Example, "python -m example").listen_address == "127.0.0.1:1234"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EMBEDDER_WEIGHTS_SHA256", "abc"),
        ("EMBEDDER_WEIGHTS_SHA256", "vgg16=abc"),
        ("EMBEDDER_MODELS", "vgg17"),
        ("EMBEDDER_MODELS", " , "),
        ("EMBEDDER_MODELS", "vgg16,mobilenet,vgg16-avg"),
        ("EMBEDDER_MAX_BATCH_SIZE", "0"),
        ("EMBEDDER_MAX_BATCH_SIZE", "257"),
        ("EMBEDDER_MAX_IMAGE_BYTES", "0"),
        ("EMBEDDER_DECODE_THREADS", "0"),
        # An image of this size cannot arrive: a message has at most 24 MiB.
        ("EMBEDDER_MAX_IMAGE_BYTES", "100000000"),
    ],
)
def test_the_embedders_own_limits_are_checked(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert name in refusal(EmbedderSettings)


@pytest.mark.parametrize("name", ["EMBEDDER_WEIGHTS", "EMBEDDER_WEIGHTS_CACHE"])
def test_an_empty_variable_counts_as_unset(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")
    settings = load(EmbedderSettings, "python -m embedder_service")
    assert (settings.weights_files, settings.weights_cache) == ({}, None)


def test_weights_belong_to_the_first_model_or_to_the_named_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDER_MODELS", "own=/models/own, vgg16-fc1, mobilenet")
    monkeypatch.setenv("EMBEDDER_WEIGHTS", "/w/top.h5,mobilenet=/w/a=b.h5")
    monkeypatch.setenv("EMBEDDER_WEIGHTS_SHA256", f"{'0' * 64}, mobilenet={'1' * 64}")
    settings = load(EmbedderSettings, "python -m embedder_service")
    assert [name.text for name in settings.model_names] == ["own", "vgg16-fc1", "mobilenet"]
    assert settings.weights_files == {"vgg16_top": Path("/w/top.h5"), "mobilenet": Path("/w/a=b.h5")}
    assert settings.weights_digests == {"vgg16_top": "0" * 64, "mobilenet": "1" * 64}


@pytest.mark.parametrize("settings", [Example, EmbedderSettings])
def test_help_lists_every_variable_with_its_default_and_description(
    settings: type[ServerSettings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["example", "--help"])
    with pytest.raises(SystemExit) as left:
        load(settings, "python -m example")
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: python -m example\n")
    assert (settings.__doc__ or "").strip() in text
    prefix = settings.model_config["env_prefix"]
    for name, field in settings.model_fields.items():
        default = "unset" if field.default in (None, "") or str(field.default) == "" else field.default
        assert f"\n  {prefix}{name.upper()} (default: {default})\n" in text
        assert field.description
        assert " ".join(field.description.split()) in " ".join(text.split())


def test_other_arguments_are_refused_with_the_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["example", "--port", "9"])
    assert refusal() == "python -m example: takes no arguments, only environment variables"
    assert describe(Example, "python -m example") in capsys.readouterr().err


def test_settings_are_logged_once_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLE_TOKEN", "hunter2")
    with structlog.testing.capture_logs() as lines:
        log_settings(load(Example, "python -m example"))
    assert "hunter2" not in str(lines)
    assert lines[0]["share"] == "0.25"
    assert len(lines) == 1


def test_an_invalid_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    class Guarded(Example):
        token: SecretStr = Field(default=SecretStr(""), min_length=20, description="What to show at the door.")

    monkeypatch.setenv("EXAMPLE_TOKEN", "hunter2")
    message = refusal(Guarded)
    assert "EXAMPLE_TOKEN" in message
    assert "hunter2" not in message
