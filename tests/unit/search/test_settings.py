"""Settings of the connections to Milvus and the embedder. Wrong settings prevent the start, with a hint."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from grpc_kit.credentials import ClientTls
from grpc_kit.server.settings import load
from search_service.adapters.milvus_connection import MilvusConnection
from search_service.bootstrap import serve
from search_service.settings import SearchSettings
from tests.harness.certificates import Authority

SERVER = {"URI": "https://milvus:19530"}
FILES = {"CA": "ca.pem", "CERTIFICATE": "search.crt", "KEY": "search.key"}


def loaded(monkeypatch: pytest.MonkeyPatch, values: Mapping[str, str]) -> SearchSettings:
    monkeypatch.setattr("sys.argv", ["search_service"])
    for name, value in values.items():
        monkeypatch.setenv(f"SEARCH_MILVUS_{name}", value)
    return load(SearchSettings, "python -m search_service")


@pytest.mark.parametrize(
    ("values", "names", "hint"),
    [
        ({"TOKEN": "root:hunter2"}, "SEARCH_MILVUS_TOKEN", "set SEARCH_MILVUS_URI to http://HOST:19530"),
        ({"URI": "http://root:hunter2@milvus:19530"}, "SEARCH_MILVUS_URI", "set SEARCH_MILVUS_TOKEN to USER:PASSWORD"),
        (
            {"URI": "http://root:hunter2@[::1:19530"},
            "SEARCH_MILVUS_URI is not an address",
            "set it to http://HOST:19530",
        ),
        ({"DATABASE": "shop"}, "SEARCH_MILVUS_DATABASE=shop", "set SEARCH_MILVUS_URI to http://HOST:19530"),
        ({**SERVER, "DATABASE": "my shop"}, "SEARCH_MILVUS_DATABASE=my shop", "letters, digits and underscores"),
        ({**SERVER, "DATABASE": "1shop"}, "SEARCH_MILVUS_DATABASE=1shop", "must not be a digit"),
        ({"CA": "ca.pem"}, "SEARCH_MILVUS_CA", "set SEARCH_MILVUS_URI to https://HOST:19530"),
        ({"URI": "http://milvus:19530", "CA": "ca.pem"}, "SEARCH_MILVUS_CA", "to https://HOST:19530"),
        ({"URI": "http://milvus:19530", **FILES}, "SEARCH_MILVUS_CA", "to https://HOST:19530"),
        ({"URI": "http://milvus:19530", "SERVER_NAME": "milvus"}, "SEARCH_MILVUS_SERVER_NAME", "to https://HOST:19530"),
        ({**SERVER, **FILES, "KEY": ""}, "SEARCH_MILVUS_CERTIFICATE", "SEARCH_MILVUS_KEY must be set together"),
        ({**SERVER, **FILES, "CERTIFICATE": ""}, "SEARCH_MILVUS_CERTIFICATE", "SEARCH_MILVUS_KEY must be set together"),
        (
            {**SERVER, **FILES, "CA": ""},
            "SEARCH_MILVUS_CERTIFICATE needs SEARCH_MILVUS_CA",
            "the authority that signed",
        ),
    ],
)
def test_contradicting_settings_prevent_the_start(
    values: Mapping[str, str], names: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as exited:
        loaded(monkeypatch, values)
    message = str(exited.value.code)
    assert message.startswith("python -m search_service: wrong settings:\n")
    assert names in message
    assert hint in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"KEY": "k.pem"}, "SEARCH_EMBEDDER_CERTIFICATE and SEARCH_EMBEDDER_KEY must be set together, or neither"),
        ({"CERTIFICATE": "c.pem"}, "SEARCH_EMBEDDER_CERTIFICATE and SEARCH_EMBEDDER_KEY must be set together"),
        ({"TOKEN": "hunter2"}, "SEARCH_EMBEDDER_TOKEN is sent only over TLS: set SEARCH_EMBEDDER_TLS=true"),
        ({"TLS": "false", "CA": "ca.pem"}, "SEARCH_EMBEDDER_TLS turns TLS off, and SEARCH_EMBEDDER_CA"),
        ({"TLS": "maybe", "CA": "ca.pem", "TOKEN": "hunter2"}, "SEARCH_EMBEDDER_TLS='maybe': should be true or false"),
        ({"TLS": "maybe"}, "SEARCH_EMBEDDER_TLS='maybe': should be true or false (yes or no, on or off, 1 or 0)"),
    ],
)
def test_wrong_tls_settings_of_the_embedder_never_cause_plain_text(
    values: Mapping[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"SEARCH_EMBEDDER_{name}", value)
    with pytest.raises(SystemExit) as exited:
        loaded(monkeypatch, {})
    assert f"  {message}" in str(exited.value.code)
    assert "hunter2" not in str(exited.value.code)
    # The error does not mention the default of a setting with a wrong value.
    assert str(exited.value.code).count("SEARCH_EMBEDDER_TLS") == message.count("SEARCH_EMBEDDER_TLS")


def test_error_names_all_contradictions_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEARCH_EMBEDDER_KEY", "k.pem")
    monkeypatch.setenv("SEARCH_TLS_KEY", "k.pem")
    monkeypatch.setenv("SEARCH_MILVUS_THREADS", "0")
    with pytest.raises(SystemExit) as exited:
        loaded(monkeypatch, {"URI": "http://milvus:19530", "CA": "ca.pem", "SERVER_NAME": "milvus", "DATABASE": "1"})
    lines = str(exited.value.code).splitlines()[1:]
    starts = ["SEARCH_MILVUS_THREADS", "set *_TLS", "SEARCH_MILVUS_DATABASE", "SEARCH_MILVUS_CA and", "SEARCH_EMB"]
    assert len(lines) == len(starts)
    assert all(line.strip().startswith(start) for line, start in zip(lines, starts, strict=True))


@pytest.mark.parametrize(
    ("uri", "token", "shown"),
    [
        ("http://milvus:19530", "u:p", True),
        ("tcp://10.0.0.7:19530", "u:p", True),
        ("http://milvus:19530", "", False),
        ("https://milvus:19530", "u:p", False),
        ("http://127.0.0.1:19530", "u:p", False),
        ("http://[::1]:19530", "u:p", False),
        ("http://localhost:19530", "u:p", False),
        ("data/milvus.db", "u:p", False),
    ],
)
def test_connection_detects_a_token_in_plain_text(uri: str, token: str, shown: bool) -> None:
    assert MilvusConnection(uri, token).shows_token == shown


@pytest.mark.parametrize(
    ("files", "names"),
    [
        ({"CA": "missing.pem"}, "SEARCH_MILVUS_CA: .*missing.pem cannot be read: No such file"),
        ({"CA": "search.key"}, "SEARCH_MILVUS_CA: .*search.key has no certificate of an authority in PEM format"),
        ({"KEY": "other.key"}, "SEARCH_MILVUS_CERTIFICATE and SEARCH_MILVUS_KEY: .*search.crt and .*other.key are no"),
        ({"KEY": "missing.key"}, "SEARCH_MILVUS_CERTIFICATE and SEARCH_MILVUS_KEY: .*missing.key"),
    ],
)
def test_unusable_tls_files_prevent_the_start(
    files: Mapping[str, str], names: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path, "ca")
    authority.issue("search")
    authority.issue("other")
    monkeypatch.chdir(tmp_path)
    settings = loaded(monkeypatch, {**SERVER, **FILES, **files})

    async def start() -> None:
        async with serve(settings):
            pass

    # `python -m search_service` prints this error as its last line.
    with pytest.raises(OSError, match=names):
        asyncio.run(start())


def test_pymilvus_receives_the_tls_files() -> None:
    ca, certificate, key = Path("/tls/ca.pem"), Path("/tls/search.crt"), Path("/tls/search.key")
    paths = {}
    for name, tls in {
        "public": None,
        "private": ClientTls(ca),
        "mutual": ClientTls(ca, certificate, key),
    }.items():
        options = MilvusConnection("https://milvus:19530", "u:p", "shop", tls).options()
        assert (options["db_name"], options["token"], options["dedicated"]) == ("shop", "u:p", True)
        paths[name] = {option: value for option, value in options.items() if option.endswith("_path")}
    assert paths == {
        "public": {},
        "private": {"server_pem_path": str(ca)},
        "mutual": {"ca_pem_path": str(ca), "client_pem_path": str(certificate), "client_key_path": str(key)},
    }


def test_connection_repr_has_no_password() -> None:
    assert "secret" not in repr(MilvusConnection("http://milvus:19530", "user:secret"))


def test_default_page_token_secret_is_stable(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = loaded(monkeypatch, {"URI": "http://milvus:19530", "TOKEN": "user:secret"})
    assert settings.page_token_secret == b"http://milvus:19530 user:secret"
