"""TLS, client certificates and tokens, with real calls on the loopback interface."""

import asyncio
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from structlog.testing import capture_logs

from grpc_kit.channel import open_blocking_channel, open_channel
from grpc_kit.credentials import ClientTls, CredentialsError, ServerTls, channel_credentials
from grpc_kit.server.settings import ServerSettings, load, log_settings
from tests.harness.certificates import Authority, Pair, encrypt, name_of, replace
from tests.unit.grpc_kit.example import SERVICE, Example, Running, Serving, failure, info_of, make_server, stream

TOKEN, OTHER_TOKEN = "first-token-hunter2", "second-token-hunter2"
GARBAGE = b"this is no PEM\n"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "stranger")


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.issue("server")


def files(pair: Pair, client_ca: Path | None = None) -> dict[str, Path | None]:
    return {"tls_certificate": pair.certificate, "tls_key": pair.key, "tls_client_ca": client_ca}


async def list_models(channel: grpc.aio.Channel, **options: Any) -> None:
    await embedder_pb2_grpc.EmbedderServiceStub(channel).ListModels(embedder_pb2.ListModelsRequest(), **options)


async def is_let_in(address: str, tls: ClientTls | None) -> bool:
    """Return whether a call on a new connection succeeds."""
    async with open_channel(address, 1000, tls=tls) as channel:
        try:
            await list_models(channel)
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017 - either is an answer here
            return False
        return True


async def test_a_client_that_trusts_the_authority_can_call(serving: Serving, authority: Authority, pair: Pair) -> None:
    async with serving(tls=ClientTls(authority=authority.file), **files(pair)) as running:
        assert await running.get("a name") == "a name"
        assert await stream(running.channel, ["a", "b"]) == ["a", "b"]


async def test_a_blocking_client_that_trusts_the_authority_can_call(
    serving: Serving, authority: Authority, pair: Pair
) -> None:
    async with serving(**files(pair)) as running:

        def call() -> str:
            with open_blocking_channel(running.address, 1000, tls=ClientTls(authority=authority.file)) as channel:
                stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
                return stub.GetModel(embedder_pb2.GetModelRequest(name="a name"), timeout=10).model.name

        assert await asyncio.to_thread(call) == "a name"


async def test_a_client_with_a_wrong_authority_or_without_tls_cannot_call(
    serving: Serving, pair: Pair, stranger: Authority
) -> None:
    async with serving(**files(pair)) as running:
        assert not await is_let_in(running.address, ClientTls(authority=stranger.file))
        assert not await is_let_in(running.address, ClientTls())
        assert not await is_let_in(running.address, None)


async def test_a_tls_client_does_not_call_a_plain_text_server(serving: Serving, authority: Authority) -> None:
    async with serving() as running:
        assert not await is_let_in(running.address, ClientTls(authority=authority.file))


async def test_a_server_with_mtls_admits_only_clients_of_its_authority(
    serving: Serving, authority: Authority, pair: Pair, stranger: Authority
) -> None:
    right, wrong = authority.issue("client"), stranger.issue("stranger-client")
    async with serving(**files(pair, authority.file)) as running:
        for shown, is_right in ((None, False), (wrong, False), (right, True)):
            tls = ClientTls(authority.file, shown.certificate, shown.key) if shown else ClientTls(authority.file)
            assert await is_let_in(running.address, tls) is is_right
        assert not await is_let_in(running.address, None)


async def test_a_blocking_client_sends_its_certificate_too(
    serving: Serving, authority: Authority, pair: Pair, stranger: Authority
) -> None:
    right, wrong = authority.issue("client"), stranger.issue("stranger-client")
    async with serving(**files(pair, authority.file)) as running:

        def call(shown: Pair) -> str:
            tls = ClientTls(authority.file, shown.certificate, shown.key)
            with open_blocking_channel(running.address, 1000, tls=tls) as channel:
                stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
                return stub.GetModel(embedder_pb2.GetModelRequest(name="a name"), timeout=10).model.name

        assert await asyncio.to_thread(call, right) == "a name"
        with pytest.raises(grpc.RpcError) as failed:
            await asyncio.to_thread(call, wrong)
    assert cast("grpc.Call", failed.value).code() is grpc.StatusCode.UNAVAILABLE


async def shown_certificate(address: str) -> str:
    """Return the name in the server certificate of a new connection."""

    def connect() -> str:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        host, _, port = address.rpartition(":")
        with (
            socket.create_connection((host, int(port)), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=host) as connection,
        ):
            certificate = connection.getpeercert(binary_form=True)
        assert certificate is not None
        return name_of(certificate)

    return await asyncio.to_thread(connect)


async def test_a_new_connection_gets_the_replaced_certificate(
    serving: Serving, authority: Authority, pair: Pair, stranger: Authority
) -> None:
    tls = ClientTls(authority=authority.file)
    async with serving(tls=tls, **files(pair)) as running:
        assert await shown_certificate(running.address) == "server"
        await list_models(running.channel)
        for number in (1, 2):
            pair.replace_with(authority.issue(f"renewed-{number}"))
            assert await shown_certificate(running.address) == f"renewed-{number}"
            assert await is_let_in(running.address, tls)
        pair.replace_with(stranger.issue("of-another-authority"))
        assert not await is_let_in(running.address, tls)
        assert await is_let_in(running.address, ClientTls(authority=stranger.file))
        # The existing connection stays usable.
        await list_models(running.channel)


async def test_the_authority_of_clients_can_be_replaced_too(
    serving: Serving, authority: Authority, pair: Pair, stranger: Authority, tmp_path: Path
) -> None:
    client_ca = tmp_path / "clients.pem"
    client_ca.write_bytes(authority.file.read_bytes())
    of_first, of_second = (
        ClientTls(authority.file, shown.certificate, shown.key)
        for shown in (authority.issue("client"), stranger.issue("stranger-client"))
    )
    async with serving(**files(pair, client_ca)) as running:
        assert (await is_let_in(running.address, of_first), await is_let_in(running.address, of_second)) == (
            True,
            False,
        )
        replace(client_ca, stranger.file.read_bytes())
        assert (await is_let_in(running.address, of_first), await is_let_in(running.address, of_second)) == (
            False,
            True,
        )


def remove_key(pair: Pair, renewed: Pair) -> None:
    pair.replace_certificate(renewed)
    pair.key.unlink()


def remove_certificate(pair: Pair, renewed: Pair) -> None:
    pair.replace_key(renewed)
    pair.certificate.unlink()


def spoil_certificate(pair: Pair, renewed: Pair) -> None:
    pair.replace_key(renewed)
    replace(pair.certificate, GARBAGE)


def empty_certificate(pair: Pair, renewed: Pair) -> None:
    pair.replace_key(renewed)
    replace(pair.certificate, b"")


@pytest.mark.parametrize(
    "harm",
    [Pair.replace_certificate, Pair.replace_key, remove_key, remove_certificate, spoil_certificate, empty_certificate],
)
async def test_unusable_files_leave_the_last_valid_ones_in_use(
    serving: Serving, authority: Authority, pair: Pair, harm: Callable[[Pair, Pair], None]
) -> None:
    tls = ClientTls(authority=authority.file)
    renewed = authority.issue("renewed")
    async with serving(tls=tls, **files(pair)) as running:
        assert await shown_certificate(running.address) == "server"
        harm(pair, renewed)
        for _ in range(2):
            assert await shown_certificate(running.address) == "server"
        assert await is_let_in(running.address, tls)
        pair.replace_with(renewed)
        assert await shown_certificate(running.address) == "renewed"


@pytest.mark.parametrize("content", [GARBAGE, b""])
async def test_an_unusable_client_authority_leaves_the_last_valid_one_in_use(
    serving: Serving, authority: Authority, pair: Pair, tmp_path: Path, content: bytes
) -> None:
    client_ca = tmp_path / "clients.pem"
    client_ca.write_bytes(authority.file.read_bytes())
    shown = authority.issue("client")
    tls = ClientTls(authority.file, shown.certificate, shown.key)
    async with serving(**files(pair, client_ca)) as running:
        assert await is_let_in(running.address, tls)
        replace(client_ca, content)
        assert await is_let_in(running.address, tls)
        assert not await is_let_in(running.address, ClientTls(authority.file))


def wrong_files(pair: Pair, other: Pair) -> Iterator[tuple[str, ServerTls, Path]]:
    """Unusable server files, and the file that the error names."""
    folder = pair.certificate.parent
    missing, garbage, empty = folder / "missing.pem", folder / "garbage.pem", folder / "empty.pem"
    garbage.write_bytes(GARBAGE)
    empty.write_bytes(b"")
    encrypted = folder / "encrypted.key"
    encrypted.write_bytes(pair.key.read_bytes())
    encrypt(encrypted, b"a password")
    for kind, path in (("missing", missing), ("garbage", garbage), ("empty", empty), ("folder", folder)):
        yield f"{kind} certificate", ServerTls(path, pair.key), path
        yield f"{kind} key", ServerTls(pair.certificate, path), path
        yield f"{kind} client authority", ServerTls(pair.certificate, pair.key, path), path
    yield "key of another certificate", ServerTls(pair.certificate, other.key), other.key
    yield "encrypted key", ServerTls(pair.certificate, encrypted), encrypted
    yield "key as client authority", ServerTls(pair.certificate, pair.key, pair.key), pair.key


KINDS = [
    *(f"{kind} {of}" for kind in ("missing", "garbage", "empty", "folder") for of in ("certificate", "key")),
    *(f"{kind} client authority" for kind in ("missing", "garbage", "empty", "folder")),
    "key of another certificate",
    "encrypted key",
    "key as client authority",
]


@pytest.mark.parametrize("kind", KINDS)
def test_unusable_server_files_are_refused_and_named(authority: Authority, pair: Pair, kind: str) -> None:
    wrong = {kind: (tls, path) for kind, tls, path in wrong_files(pair, authority.issue("other"))}
    assert sorted(wrong) == sorted(KINDS)
    tls, path = wrong[kind]
    with pytest.raises(CredentialsError, match=re.escape(str(path))):
        tls.credentials()


async def test_the_start_of_the_server_refuses_unusable_files(authority: Authority, pair: Pair) -> None:
    other = authority.issue("other")
    server = make_server(Example(), CollectorRegistry(), tls_certificate=pair.certificate, tls_key=other.key)
    try:
        with pytest.raises(CredentialsError, match=re.escape(str(other.key))):
            await server.start()
    finally:
        await server.stop()


@pytest.mark.parametrize("kind", ["missing", "garbage", "empty"])
def test_unusable_client_files_are_refused_and_named(pair: Pair, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"{kind}.pem"
    if kind != "missing":
        path.write_bytes(GARBAGE if kind == "garbage" else b"")
    for tls in (ClientTls(certificate=pair.certificate, key=path), ClientTls(certificate=path, key=pair.key)):
        with pytest.raises(CredentialsError, match=re.escape(str(path))):
            channel_credentials(tls, "")


@pytest.mark.parametrize("kind", ["missing", "garbage", "empty"])
def test_an_unusable_authority_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"{kind}.pem"
    if kind != "missing":
        path.write_bytes(GARBAGE if kind == "garbage" else b"")
    with pytest.raises(CredentialsError, match=re.escape(str(path))):
        channel_credentials(ClientTls(authority=path), "")


def test_a_client_certificate_without_its_key_is_refused(pair: Pair) -> None:
    for tls in (ClientTls(certificate=pair.certificate), ClientTls(key=pair.key)):
        with pytest.raises(CredentialsError, match="key together"):
            channel_credentials(tls, "")


REFUSED: dict[str, tuple[tuple[tuple[str, str], ...], str]] = {
    "none": ((), "TOKEN_MISSING"),
    "empty": ((("authorization", ""),), "TOKEN_MISSING"),
    "scheme alone": ((("authorization", "Bearer"),), "TOKEN_MISSING"),
    "bare token": ((("authorization", TOKEN),), "TOKEN_MISSING"),
    "wrong scheme": ((("authorization", f"Basic {TOKEN}"),), "TOKEN_MISSING"),
    "two headers": ((("authorization", f"Bearer {TOKEN}"), ("authorization", f"Bearer {TOKEN}")), "TOKEN_MISSING"),
    "right and wrong": ((("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer wrong")), "TOKEN_MISSING"),
    "wrong": ((("authorization", "Bearer wrong"),), "TOKEN_INVALID"),
    "begin of one": ((("authorization", f"Bearer {TOKEN[:-1]}"),), "TOKEN_INVALID"),
    "more than one": ((("authorization", f"Bearer {TOKEN}x"),), "TOKEN_INVALID"),
    "other case": ((("authorization", f"Bearer {TOKEN.upper()}"),), "TOKEN_INVALID"),
    "both in one": ((("authorization", f"Bearer {TOKEN},{OTHER_TOKEN}"),), "TOKEN_INVALID"),
    "another key": ((("x-authorization", f"Bearer {TOKEN}"),), "TOKEN_MISSING"),
}


def calls_with(running: Running, metadata: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    return {
        "unary": running.get("a name", metadata=metadata),
        "stream": stream(running.channel, ["a"], metadata=metadata),
    }


@pytest.mark.parametrize("kind", REFUSED)
async def test_a_call_without_a_valid_token_is_refused(serving: Serving, kind: str) -> None:
    metadata, reason = REFUSED[kind]
    async with serving(tokens=f"{TOKEN},{OTHER_TOKEN}") as running:
        for call in calls_with(running, metadata).values():
            error = await failure(call)
            assert (error.code(), info_of(error).reason) == (grpc.StatusCode.UNAUTHENTICATED, reason)
            assert "hunter2" not in f"{error.details()} {error.debug_error_string()} {error.trailing_metadata()}"
        assert running.servicer.calls.total() == 0


async def test_a_scheme_without_a_token_is_refused(serving: Serving) -> None:
    async with serving(tokens=TOKEN) as running:
        for call in calls_with(running, (("authorization", "Bearer "),)).values():
            error = await failure(call)
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED
            assert info_of(error).reason in {"TOKEN_MISSING", "TOKEN_INVALID"}


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (" ", "the token is blank"),
        ("first\nsecond", "characters that a gRPC header cannot contain"),
        ("tökén", "characters that a gRPC header cannot contain"),
    ],
)
def test_a_token_that_cannot_be_sent_is_refused(token: str, said: str) -> None:
    with pytest.raises(CredentialsError, match=said):
        channel_credentials(ClientTls(), token)


@pytest.mark.parametrize("tls", [None, ClientTls()])
@pytest.mark.parametrize("target", ["https://localhost:50052", " HTTP://localhost:50052"])
def test_a_url_is_no_target(target: str, tls: ClientTls | None) -> None:
    with pytest.raises(CredentialsError, match="use HOST:PORT, and the TLS settings"):
        open_blocking_channel(target, 1000, tls=tls)


@pytest.mark.parametrize("token", [TOKEN, OTHER_TOKEN])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_a_call_with_either_valid_token_is_answered(serving: Serving, token: str, scheme: str) -> None:
    async with serving(tokens=f" {TOKEN} , {OTHER_TOKEN},") as running:
        calls = calls_with(running, (("authorization", f"{scheme} {token}"),))
        assert (await calls["unary"], await calls["stream"]) == ("a name", ["a"])


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """Return an HTTP/2 frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream_id.to_bytes(4, "big") + payload


def headers(fields: dict[bytes, bytes]) -> bytes:
    """Return an HTTP/2 header block with literal headers."""
    return b"".join(b"\0" + bytes((len(key),)) + key + bytes((len(value),)) + value for key, value in fields.items())


async def answer_to(address: str, authorization: bytes) -> bytes:
    """Return the bytes of a GetModel response, up to its trailers. gRPC's client would send only ASCII headers."""
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": f"/{SERVICE}/GetModel".encode(),
        b":authority": b"localhost",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
        b"authorization": authorization,
    }
    # The settings, the headers, and an empty message.
    frames = frame(4, 0, 0, b"") + frame(1, 4, 1, headers(fields)) + frame(0, 1, 1, bytes(5))
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frames)
    answered = b""
    try:
        async with asyncio.timeout(10):
            while b"grpc-status-details-bin" not in answered:
                piece = await reader.read(10_000)
                assert piece, "the server hung up"
                answered += piece
    finally:
        writer.close()
        await writer.wait_closed()
    return answered


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        ("Bearer tökén".encode(), "TOKEN_INVALID"),
        ("Bearer \N{GRINNING FACE}".encode(), "TOKEN_INVALID"),
        (b"Bearer \xff\xfe", "TOKEN_INVALID"),
        (f"Bearer {TOKEN}ö".encode(), "TOKEN_INVALID"),
        ("Bêarer token".encode(), "TOKEN_MISSING"),
    ],
)
async def test_a_token_that_is_not_ascii_is_refused(serving: Serving, authorization: bytes, reason: str) -> None:
    async with serving(tokens=TOKEN) as running:
        # An HPACK literal: length and value. 16 is UNAUTHENTICATED.
        assert b"grpc-status\x0216" in await answer_to(running.address, authorization)
        labels = {"grpc_service": SERVICE, "grpc_method": "GetModel", "reason": reason}
        assert running.registry.get_sample_value("grpc_server_refused_total", labels) == 1
        assert running.servicer.calls.total() == 0


async def test_health_needs_no_token(serving: Serving) -> None:
    async with serving(tokens=TOKEN) as running:
        stub = health_pb2_grpc.HealthStub(running.channel)
        response = await stub.Check(health_pb2.HealthCheckRequest())  # type: ignore[attr-defined]
        assert response.status == health_pb2.HealthCheckResponse.SERVING
        watched = stub.Watch(health_pb2.HealthCheckRequest())  # type: ignore[attr-defined]
        assert (await anext(aiter(watched))).status == health_pb2.HealthCheckResponse.SERVING
        watched.cancel()


async def test_each_call_sends_the_token_over_tls(serving: Serving, authority: Authority, pair: Pair) -> None:
    tls = ClientTls(authority=authority.file)
    async with serving(tls=tls, token=OTHER_TOKEN, tokens=f"{TOKEN},{OTHER_TOKEN}", **files(pair)) as running:
        for _ in range(2):
            assert await running.get("a name") == "a name"
            assert await stream(running.channel, ["a"]) == ["a"]

        def call() -> str:
            with open_blocking_channel(running.address, 1000, tls=tls, token=f" {TOKEN}\n") as channel:
                stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
                return stub.GetModel(embedder_pb2.GetModelRequest(name="blocking"), timeout=10).model.name

        assert await asyncio.to_thread(call) == "blocking"
        for token, reason in (("", "TOKEN_MISSING"), ("wrong", "TOKEN_INVALID")):
            async with open_channel(running.address, 1000, tls=tls, token=token) as channel:
                error = await failure(list_models(channel))
                assert (error.code(), info_of(error).reason) == (grpc.StatusCode.UNAUTHENTICATED, reason)


@pytest.mark.parametrize("opened", [open_channel, open_blocking_channel])
def test_a_token_is_not_sent_without_tls(opened: Callable[..., object]) -> None:
    with pytest.raises(CredentialsError, match="a token needs TLS") as refused:
        opened("127.0.0.1:1", 1000, token=TOKEN)
    assert TOKEN not in str(refused.value)


async def test_no_log_line_has_a_token(serving: Serving, authority: Authority, pair: Pair) -> None:
    tls = ClientTls(authority=authority.file)
    with capture_logs() as lines:
        async with serving(tls=tls, token=TOKEN, tokens=f"{TOKEN},{OTHER_TOKEN}", **files(pair)) as running:
            await running.get("fine")
            await failure(running.get("refuse"))
            await failure(running.get("fault"))
            await stream(running.channel, ["fine"])
            async with open_channel(running.address, 1000, tls=tls, token=f"{TOKEN}-of-a-typo") as channel:
                await failure(list_models(channel))
        log_settings(ServerSettings(tokens=SecretStr(f"{TOKEN},{OTHER_TOKEN}")))
    assert [line["code"] for line in lines if line["event"] == "call"] == [
        "OK",
        "NOT_FOUND",
        "INTERNAL",
        "OK",
        "UNAUTHENTICATED",
    ]
    assert "settings" in {line["event"] for line in lines}
    assert TOKEN not in str(lines)
    assert OTHER_TOKEN not in str(lines)


@pytest.mark.parametrize("with_tls", [True, False])
async def test_a_server_without_tls_warns_about_tokens(serving: Serving, pair: Pair, *, with_tls: bool) -> None:
    with capture_logs() as lines:
        async with serving(tokens=TOKEN, **(files(pair) if with_tls else {})):
            pass
    warnings = [line["event"] for line in lines if line["log_level"] == "warning"]
    assert [warning.startswith("tokens arrive unencrypted") for warning in warnings] == ([] if with_tls else [True])


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        (("TLS_CERTIFICATE",), "set *_TLS_CERTIFICATE and *_TLS_KEY together"),
        (("TLS_KEY",), "set *_TLS_CERTIFICATE and *_TLS_KEY together"),
        (("TLS_CLIENT_CA",), "TLS_CLIENT_CA needs"),
    ],
)
def test_contradictory_tls_settings_are_refused_without_secrets(
    variables: tuple[str, ...], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["example"])
    monkeypatch.setenv("TOKENS", TOKEN)
    for name in variables:
        monkeypatch.setenv(name, "/somewhere/file.pem")
    with pytest.raises(SystemExit) as left:
        load(ServerSettings, "python -m example")
    message = str(left.value.code)
    assert message.startswith("python -m example: wrong settings:\n")
    assert problem in message
    assert "hunter2" not in message


def test_consistent_tls_settings_are_accepted() -> None:
    certificate, key, authority = Path("a.crt"), Path("a.key"), Path("ca.pem")
    assert ServerSettings().tls is None
    assert ServerSettings(tls_certificate=certificate, tls_key=key).tls == ServerTls(certificate, key)
    settings = ServerSettings(tls_certificate=certificate, tls_key=key, tls_client_ca=authority)
    assert settings.tls == ServerTls(certificate, key, authority)


@pytest.mark.parametrize(
    ("tokens", "known"), [("", []), ("a", ["a"]), (" a , b ", ["a", "b"]), ("a,,b,", ["a", "b"]), ("a b", ["a b"])]
)
def test_tokens_are_separated_by_commas(tokens: str, known: list[str]) -> None:
    assert ServerSettings(tokens=SecretStr(tokens)).token_list == known
