"""Calls and commands with more ids than one call of the service accepts."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from imagesearch.search.v1 import image_pb2, image_pb2_grpc
from typer.testing import CliRunner, Result

from grpc_kit.errors import InvalidArgumentError, ResourceExhaustedError, ServiceError, UnavailableError
from grpc_kit.status import DETAILS_KEY, code_of, to_status
from imagesearch_cli.app import app
from imagesearch_client import Client, equals

COUNT = 2500
IDS = [f"i{number:04d}" for number in range(COUNT)]
# Images that one answer has room for.
ANSWER_IMAGES = 600


class Images(image_pb2_grpc.ImageServiceServicer):
    """Keeps ids in memory. All fit any filter."""

    def __init__(self) -> None:
        self.ids = set(IDS)
        self.calls: list[int] = []
        self.fail_at = 0
        """Deletes fail from this call on, counted from 1; 0 is never."""

    def GetImages(
        self, request: image_pb2.GetImagesRequest, context: grpc.ServicerContext
    ) -> image_pb2.GetImagesResponse:
        _check(request.ids, context)
        found = [image_id for image_id in request.ids if image_id in self.ids]
        if request.view == image_pb2.IMAGE_VIEW_VECTOR and len(found) > ANSWER_IMAGES:
            _abort(context, ResourceExhaustedError("ANSWER_TOO_LARGE", "ask for less at a time"))
        # A delete by id first asks which ids exist.
        if request.view != image_pb2.IMAGE_VIEW_ID:
            self.calls.append(len(request.ids))
        return image_pb2.GetImagesResponse(images=[image_pb2.Image(id=image_id) for image_id in found])

    def DeleteImages(
        self, request: image_pb2.DeleteImagesRequest, context: grpc.ServicerContext
    ) -> image_pb2.DeleteImagesResponse:
        if request.HasField("ids"):
            _check(request.ids.ids, context)
            chosen = self.ids.intersection(request.ids.ids)
        else:
            chosen = set(sorted(self.ids)[: request.max_count or None])
        if not request.validate_only:
            self.calls.append(len(chosen))
            if len(self.calls) >= self.fail_at > 0:
                _abort(context, UnavailableError("MILVUS_UNAVAILABLE", "Milvus is away"))
            self.ids -= chosen
        return image_pb2.DeleteImagesResponse(deleted_count=len(chosen))


def _check(ids: object, context: grpc.ServicerContext) -> None:
    if not 1 <= len(ids) <= 1000:  # type: ignore[arg-type]
        _abort(context, InvalidArgumentError("TOO_MANY_IDS", "it should have 1 to 1000"))


def _abort(context: grpc.ServicerContext, error: ServiceError) -> None:
    context.set_trailing_metadata(((DETAILS_KEY, to_status(error, "test").SerializeToString()),))
    context.abort(code_of(error), error.message)


@pytest.fixture
def service() -> Iterator[tuple[Images, str]]:
    server, images = grpc.server(ThreadPoolExecutor(2)), Images()  # type: ignore[abstract]
    image_pb2_grpc.add_ImageServiceServicer_to_server(images, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield images, f"127.0.0.1:{port}"
    server.stop(None).wait()


def run(address: str, command: str, *arguments: str, ids: str | bytes | None = None) -> Result:
    environment = {"IMAGESEARCH_TARGET": address, "COLUMNS": "300"}
    return CliRunner(env=environment).invoke(app, ["images", command, "-c", "shoes", *arguments], input=ids)


def lines(*ids: str) -> str:
    return "".join(f"{image_id}\n" for image_id in ids)


def test_get_reads_any_number_of_images(service: tuple[Images, str]) -> None:
    images, address = service
    with Client(address) as client:
        assert list(client.get_many("shoes", [*IDS, "nobody", *IDS])) == IDS
        assert images.calls == [1000, 1000, 501]
        # A generator is read as far as is asked for.
        first = next(client.get_each("shoes", iter(["nobody", *IDS])))
        assert first == ("nobody", None)
        images.calls.clear()
        # With vectors the answers would be too large.
        assert list(client.get_many("shoes", IDS, with_vector=True)) == IDS
        assert images.calls == [500, 500, 500, 500, 500]
        assert client.get_many("shoes", []) == {}


def test_delete_deletes_any_number_of_images(service: tuple[Images, str]) -> None:
    images, address = service
    reported: list[int] = []
    with Client(address) as client:
        assert client.delete("shoes", [*IDS, "nobody"], dry_run=True) == COUNT
        assert client.delete("shoes", [*IDS, "nobody", *IDS], on_progress=reported.append) == COUNT
        assert (images.calls, reported) == ([1000, 1000, 500], [1000, 2000, 2500])
        assert client.delete("shoes", []) == 0


def test_an_error_reports_how_many_images_were_deleted_before(service: tuple[Images, str]) -> None:
    images, address = service
    with Client(address) as client:
        for calls, left in ((2, 1500), (1, 1500)):
            images.calls.clear()
            images.fail_at = calls
            with pytest.raises(UnavailableError) as raised:
                client.delete_where("shoes", equals("a", 1))
            assert raised.value.metadata["deleted_count"] == str(1000 * (calls - 1))
            assert len(images.ids) == left
        images.fail_at = 0
        assert client.delete_where("shoes", equals("a", 1)) == 1500
        assert client.delete_where("shoes", equals("a", 1)) == 0


def test_commands_read_ids_from_standard_input(service: tuple[Images, str]) -> None:
    images, address = service
    images.ids |= {"-a", "with a space", " leading", "ünï"}
    ids = lines("-a", "with a space", "", " leading", "ünï", *IDS, "i0000", "nobody") + "i0001"
    got = run(address, "get", "-", "--json", ids=ids.replace("\n", "\r\n"))
    assert [json.loads(line)["id"] for line in got.stdout.splitlines()] == [
        "-a",
        "with a space",
        " leading",
        "ünï",
        *IDS,
    ]
    assert (got.exit_code, got.stderr) == (1, "shoes has no image nobody\n")
    got = run(address, "get", "--json", "--", "-a")
    assert (got.exit_code, json.loads(got.stdout)["id"]) == (0, "-a")
    bad = run(address, "get", "-", ids=b"i0001\n\xff\n")
    assert (bad.exit_code, "line 2 of standard input is not UTF-8" in bad.stderr) == (2, True)

    asked = run(address, "delete", "-", ids=ids)
    assert (asked.exit_code, "add --yes or --dry-run" in asked.stderr) == (2, True)
    dry = run(address, "delete", "-", "--dry-run", ids=ids)
    assert (dry.exit_code, dry.stdout) == (1, "would delete 2504 images of shoes\n")
    deleted = run(address, "delete", "-", "--yes", ids=ids)
    assert (deleted.exit_code, deleted.stdout) == (1, "deleted 2504 images of shoes\n")
    assert deleted.stderr == "shoes has no image nobody\n"
    assert images.ids == set()
    assert run(address, "delete", "-", "--yes", ids="").stdout == "deleted 0 images of shoes\n"


@pytest.mark.parametrize("chosen", [["-"], ["--where", "a=1"]])
def test_a_failed_delete_reports_its_progress_and_can_be_repeated(
    service: tuple[Images, str], chosen: list[str]
) -> None:
    images, address = service
    deletes_fail_at = 2
    ids = lines(*IDS)
    images.fail_at = deletes_fail_at + (3 if chosen == ["-"] else 0)
    failed = run(address, "delete", *chosen, "--yes", ids=ids)
    assert failed.exit_code == 1
    assert "deleted at least 1000 of 2500 images of shoes; run the command again to delete the rest" in failed.stderr
    assert "MILVUS_UNAVAILABLE" in failed.stderr
    assert len(images.ids) == 1500
    images.fail_at = 0
    assert run(address, "delete", *chosen, "--yes", ids=ids).stdout == "deleted 1500 images of shoes\n"


def test_without_a_terminal_delete_needs_yes(service: tuple[Images, str]) -> None:
    images, address = service
    for arguments in (["i0001"], ["--where", "a=1"]):
        said = run(address, "delete", *arguments, ids="y\n")
        assert (said.exit_code, "is not a terminal, so nobody can confirm" in said.stderr) == (2, True)
    assert len(images.ids) == COUNT
