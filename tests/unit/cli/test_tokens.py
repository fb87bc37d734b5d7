"""Each service gets only its own token, over real calls on loopback."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from typer.testing import CliRunner

from imagesearch_cli.app import app
from imagesearch_cli.load_setup import embedder_endpoint, search_endpoint
from tests.harness.certificates import Authority

OF_SEARCH, OF_EMBEDDER, OF_OTHER = "search-hunter2", "embedder-hunter2", "other-hunter2"


class Embedder(embedder_pb2_grpc.EmbedderServiceServicer):
    """Serves no model, and keeps what it was shown."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.address = ""

    def GetModel(
        self, request: embedder_pb2.GetModelRequest, context: grpc.ServicerContext
    ) -> embedder_pb2.GetModelResponse:
        self.shown.append(str(dict(context.invocation_metadata()).get("authorization", "")))
        if request.name == "none":
            context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        return embedder_pb2.GetModelResponse(model=embedder_pb2.Model(name=request.name))


@pytest.fixture
def embedder(tmp_path: Path) -> Iterator[Callable[[], Embedder]]:
    pair = Authority(tmp_path, "authority").issue("server")
    credentials = grpc.ssl_server_credentials([(pair.key.read_bytes(), pair.certificate.read_bytes())])
    servers = []

    def start() -> Embedder:
        server, servicer = grpc.server(ThreadPoolExecutor(1)), Embedder()  # type: ignore[abstract]
        embedder_pb2_grpc.add_EmbedderServiceServicer_to_server(servicer, server)
        servicer.address = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}"
        server.start()
        servers.append(server)
        return servicer

    yield start
    for server in servers:
        server.stop(None).wait()


def compare(tmp_path: Path, *arguments: str, **environment: str) -> str:
    """The embedders' answers end it before it reads a picture."""
    (tmp_path / "photos").mkdir(exist_ok=True)
    variables = {"IMAGESEARCH_CA": str(tmp_path / "authority.pem"), "COLUMNS": "300", **environment}
    result = CliRunner(env=variables).invoke(app, ["compare", str(tmp_path / "photos"), "--by-folder", *arguments])
    assert result.exit_code == 2, result.output
    return result.stderr


def test_each_embedder_gets_only_its_own_token(tmp_path: Path, embedder: Callable[[], Embedder]) -> None:
    own, other = embedder(), embedder()
    models = ["--embedder", own.address, "--models", f"a,b@{own.address},c@{other.address},none@{other.address}"]
    compare(tmp_path, *models, IMAGESEARCH_TOKEN=OF_SEARCH, IMAGESEARCH_EMBEDDER_TOKEN=OF_EMBEDDER)
    assert own.shown == [f"Bearer {OF_EMBEDDER}"] * 2
    assert other.shown == ["", ""]
    (tmp_path / "token").write_text(f"{OF_OTHER}\n")
    token = ["--token-file", f"{other.address}={tmp_path / 'token'}"]
    compare(tmp_path, *models, *token, IMAGESEARCH_TOKEN=OF_SEARCH, IMAGESEARCH_EMBEDDER_TOKEN=OF_EMBEDDER)
    assert other.shown[2:] == [f"Bearer {OF_OTHER}"] * 2
    # Without one of its own it gets none, though the search service has one.
    compare(tmp_path, "--embedder", own.address, "--models", "none", IMAGESEARCH_TOKEN=OF_SEARCH)
    assert own.shown[-1] == ""


@pytest.mark.parametrize("given", ["127.0.0.1:1", "127.0.0.1:9=FILE", "127.0.0.1:1=/nowhere"])
def test_a_token_file_of_an_unknown_embedder_is_rejected(tmp_path: Path, given: str) -> None:
    said = compare(tmp_path, "--models", "a,b@127.0.0.1:1", "--token-file", given)
    assert "HOST:PORT=FILE" in said or "/nowhere cannot be read" in said


def test_each_endpoint_of_a_load_has_the_token_of_its_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGESEARCH_TOKEN", OF_SEARCH)
    assert OF_SEARCH in vars(search_endpoint("a:1")).values()
    assert OF_SEARCH not in vars(embedder_endpoint("a:1")).values()
    monkeypatch.setenv("IMAGESEARCH_EMBEDDER_TOKEN", OF_EMBEDDER)
    assert OF_EMBEDDER in vars(embedder_endpoint("a:1")).values()
    assert OF_EMBEDDER not in vars(search_endpoint("a:1")).values()
