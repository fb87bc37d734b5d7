"""A wrong environment variable stops the command before it does anything, and never turns TLS off."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from grpc_kit.credentials import ClientTls
from imagesearch_cli.app import app
from imagesearch_client.environment import tls_from_environment


def run(*arguments: str, **variables: str) -> tuple[int, str]:
    # Nobody listens there.
    environment = {"IMAGESEARCH_TARGET": "127.0.0.1:1", "COLUMNS": "200", **variables}
    result = CliRunner(env=environment).invoke(app, list(arguments))
    return result.exit_code, result.stderr


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"IMAGESEARCH_TSL": "on"}, ["IMAGESEARCH_TSL: this setting does not exist; did you mean IMAGESEARCH_TLS?"]),
        ({"imagesearch_tls": "on"}, ["imagesearch_tls: this setting does not exist; did you mean IMAGESEARCH_TLS?"]),
        ({"IMAGESEARCH_PORTS": "50052"}, ["IMAGESEARCH_PORTS: this setting does not exist"]),
        ({"IMAGESEARCH_TLS": "maybe"}, ["IMAGESEARCH_TLS='maybe': should be true or false"]),
        ({"IMAGESEARCH_KEY": "k.pem"}, ["IMAGESEARCH_CERTIFICATE and IMAGESEARCH_KEY are set together or not at all"]),
        ({"IMAGESEARCH_CERTIFICATE": "c.pem"}, ["IMAGESEARCH_CERTIFICATE and IMAGESEARCH_KEY are set together"]),
        (
            {"IMAGESEARCH_TLS": "off", "IMAGESEARCH_CA": "ca.pem"},
            ["IMAGESEARCH_TLS='off' turns off TLS, and IMAGESEARCH_CA is for TLS"],
        ),
        (
            {"IMAGESEARCH_TLS": "tru", "IMAGESEARCH_COLECTION": "x", "IMAGESEARCH_KEY": "k.pem"},
            [
                "IMAGESEARCH_COLECTION: this setting does not exist",
                "IMAGESEARCH_TLS='tru'",
                "and IMAGESEARCH_KEY are set together",
            ],
        ),
    ],
)
def test_the_command_lists_all_wrong_variables_and_stops(variables: dict[str, str], said: list[str]) -> None:
    code, printed = run("status", **variables)
    assert code == 2
    first, *lines = printed.splitlines()
    assert first == "imagesearch: wrong settings:"
    assert len(lines) == len(said)
    assert all(text in line for text, line in zip(said, lines, strict=True))


def test_the_value_of_an_unknown_variable_is_not_printed() -> None:
    assert "hunter2" not in run("status", IMAGESEARCH_TOKENS="hunter2")[1]


def test_help_works_with_wrong_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in (["--help"], ["status", "--help"], ["collections", "create", "--help"], ["--version"]):
        monkeypatch.setattr("sys.argv", ["imagesearch", *arguments])
        assert run(*arguments, IMAGESEARCH_TSL="on")[0] == 0


def test_variables_of_kubernetes_and_compose_are_accepted() -> None:
    code, printed = run(
        "collections", "list", IMAGESEARCH_SERVICE_HOST="10.0.0.1", IMAGESEARCH_PORT="50152", IMAGESEARCH_VERSION="0.2"
    )
    assert (code, "UNAVAILABLE" in printed) == (1, True)


@pytest.mark.parametrize(
    ("variables", "tls"),
    [
        ({}, None),
        ({"IMAGESEARCH_TLS": ""}, None),
        ({"IMAGESEARCH_TLS": "off"}, None),
        ({"IMAGESEARCH_TLS": "on"}, ClientTls()),
        ({"IMAGESEARCH_TLS": "Yes"}, ClientTls()),
        ({"IMAGESEARCH_CA": "ca.pem"}, ClientTls(Path("ca.pem"))),
        ({"IMAGESEARCH_KEY": "k.pem"}, ClientTls(key=Path("k.pem"))),
    ],
)
def test_any_tls_variable_turns_tls_on(
    variables: dict[str, str], tls: ClientTls | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert tls_from_environment() == tls
