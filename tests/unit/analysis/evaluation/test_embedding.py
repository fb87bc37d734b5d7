"""Embedding with errors. Tests with real embedders cover success."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import grpc
import pytest
import typer
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from imagesearch.types.v1 import embedding_pb2

from demo.local_stack import free_port
from grpc_kit.errors import ResourceExhaustedError, UnavailableError
from imagesearch_analysis.evaluation import embedding
from imagesearch_analysis.evaluation.embedding import digest_all, embed_all, embed_missing, served_models
from imagesearch_analysis.evaluation.vector_cache import VectorCache
from imagesearch_analysis.vectors import Floats
from imagesearch_cli.evaluation import embedder_errors
from imagesearch_ingest.load.bulk_clients import Endpoint
from imagesearch_ingest.load.errors import LoadStoppedError
from imagesearch_ingest.sources.items import Item
from imagesearch_ingest.sources.local_files import read_file

MODEL = embedder_pb2.Model(name="vgg16", dimension=512, limits=embedder_pb2.Limits(max_image_bytes=10))


@pytest.fixture
def nowhere() -> Endpoint:
    return Endpoint(f"127.0.0.1:{free_port()}")


def item(path: Path, content: bytes) -> Item:
    path.write_bytes(content)
    return Item(path.name, str(path), partial(read_file, str(path)), size=len(content))


def test_an_unavailable_embedder_stops_the_embedding_after_the_retry_budget(
    nowhere: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnavailableError):
        served_models(nowhere)
    monkeypatch.setattr(embedding, "RETRY_SECONDS", 0.5)
    kept: list[str] = []
    files = {f"{number}": item(tmp_path / f"{number}.jpg", b"x") for number in range(200)}
    with pytest.raises(LoadStoppedError, match="every call to the embedder failed for"):
        embed_all(nowhere, MODEL, files, lambda name, _: kept.append(name))
    assert kept == []


def test_an_unreadable_file_does_not_stop_the_others(nowhere: Endpoint, tmp_path: Path) -> None:
    items = [item(tmp_path / "a.jpg", b"abc"), item(tmp_path / "b.jpg", b""), item(tmp_path / "c.jpg", b"x" * 11)]
    items.append(Item("gone.jpg", "gone.jpg", partial(read_file, str(tmp_path / "gone.jpg"))))
    digests, faults = digest_all(items, 10)
    assert digests == ["ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "", "", ""]
    assert {name: fault.partition(":")[0] for name, fault in faults.items()} == {
        "b.jpg": "FILE_EMPTY",
        "c.jpg": "IMAGE_TOO_LARGE",
        "gone.jpg": "UNREADABLE",
    }
    # A file that is too large for this model is rejected before a request: no service listens here.
    found = embed_all(nowhere, MODEL, {"c": items[2], "gone": items[3]}, lambda *_: None)
    assert found.failed.keys() == {"c", "gone"}
    assert (found.fresh, found.images_per_second) == (0, None)


def stop() -> None:
    raise LoadStoppedError("UNAVAILABLE", "the embedder did nothing")


def refuse() -> None:
    raise ResourceExhaustedError("OVERLOADED", "too much")


@pytest.mark.parametrize(
    ("failing", "code", "message"),
    [(stop, 3, "the embedder did nothing"), (refuse, 1, "OVERLOADED: too much")],
)
def test_the_command_reports_the_error_and_its_exit_code(
    failing: Callable[[], None], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended, embedder_errors():
        failing()
    assert ended.value.exit_code == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("resumes", [True, False])
def test_only_a_resumable_command_suggests_to_run_it_again(resumes: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), embedder_errors(resumes=resumes):
        stop()
    assert ("Run the same command again to resume." in capsys.readouterr().err) == resumes


def test_a_file_that_changed_meanwhile_fails_and_is_not_cached(nowhere: Endpoint, tmp_path: Path) -> None:
    changed = item(tmp_path / "a.jpg", b"before")
    (digest,), _ = digest_all([changed], 10)
    (tmp_path / "a.jpg").write_bytes(b"after")
    with VectorCache(tmp_path, "f", MODEL.dimension) as cache:
        found = embed_missing(nowhere, MODEL, {digest: changed}, cache)
        assert found.failed[digest].startswith("FILE_CHANGED: the file changed while the command ran")
        assert cache.missing([digest]) == [digest]


class OddEmbedder(embedder_pb2_grpc.EmbedderServiceServicer):
    """An embedder whose vectors consist of the number in the image file."""

    def Embed(self, request: embedder_pb2.EmbedRequest, context: object) -> embedder_pb2.EmbedResponse:
        raise NotImplementedError

    def EmbedRegions(
        self, request: embedder_pb2.EmbedRegionsRequest, context: object
    ) -> embedder_pb2.EmbedRegionsResponse:
        raise NotImplementedError

    def GetModel(self, request: embedder_pb2.GetModelRequest, context: object) -> embedder_pb2.GetModelResponse:
        return embedder_pb2.GetModelResponse(model=MODEL)

    def ListModels(self, request: embedder_pb2.ListModelsRequest, context: object) -> embedder_pb2.ListModelsResponse:
        return embedder_pb2.ListModelsResponse(models=[MODEL])

    def EmbedStream(
        self, request_iterator: Iterator[embedder_pb2.EmbedStreamRequest], context: object
    ) -> Iterator[embedder_pb2.EmbedStreamResponse]:
        for request in request_iterator:
            values = [float(request.image.content)] * MODEL.dimension
            embedding = embedding_pb2.Embedding(values=values, fingerprint=MODEL.fingerprint)
            yield embedder_pb2.EmbedStreamResponse(request_id=request.request_id, embedding=embedding)


def test_a_zero_or_infinite_vector_fails_its_image_and_is_not_kept(tmp_path: Path) -> None:
    server = grpc.server(ThreadPoolExecutor(8))
    embedder_pb2_grpc.add_EmbedderServiceServicer_to_server(OddEmbedder(), server)
    endpoint = Endpoint(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    server.start()
    files = {text: item(tmp_path / text, text.encode()) for text in ("1", "nan", "inf", "0")}
    kept: dict[str, Floats] = {}
    try:
        found = embed_all(endpoint, MODEL, files, kept.__setitem__)
    finally:
        server.stop(0).wait()
    assert kept.keys() == {"1"}
    assert {name: fault.partition(":")[0] for name, fault in found.failed.items()} == dict.fromkeys(
        ("nan", "inf", "0"), "VECTOR_INVALID"
    )
