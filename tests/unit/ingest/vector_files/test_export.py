"""Exports with failing services, and resumed exports."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from grpc_kit.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    ResourceExhaustedError,
    ServiceError,
    UnavailableError,
)
from imagesearch_client import listing as listing_module
from imagesearch_client.filters import Filter, equals
from imagesearch_client.types import Collection, Embedding, Image, Index, Metric
from imagesearch_ingest.empty_collection import EmptyCollectionError
from imagesearch_ingest.sources.items import Item
from imagesearch_ingest.vector_files import export as export_module
from imagesearch_ingest.vector_files.export import ExportReport, export_collection
from imagesearch_ingest.vector_files.export_parts import ExportError
from imagesearch_ingest.vector_files.vector_file_source import VectorFileSource, VectorOptions

TIME = datetime(2026, 1, 2, tzinfo=UTC)
SHOES = Collection("shoes", "m", 4, "f1", Metric.IP, Index.AUTOINDEX, "all shoes", {"team": "ä"}, TIME)


class StoppedError(Exception):
    """Stops a run."""


class FakeClient:
    """A client that lists images by id; the calls raise `errors` first, one by one."""

    def __init__(self, count: int) -> None:
        self.images = [
            Image(f"i{n:05d}", f"u{n}", {"n": n}, "", TIME, TIME, Embedding([1.0, float(n), 0.0, 0.5], "f1"))
            for n in range(count)
        ]
        self.collection = SHOES
        self.errors: list[ServiceError] = []
        self.most = 1000
        self.generation = 0
        self.asked: list[tuple[str, int, bool]] = []

    def get_collection(self, name: str) -> Collection:
        return self.collection

    def list_page(
        self,
        name: str,
        *,
        page_token: str,
        where: Filter | None,
        with_vector: bool,
        with_regions: bool,
        page_size: int,
        strong: bool,
    ) -> tuple[list[Image], str]:
        assert with_regions == with_vector
        assert name == "shoes"
        assert strong
        if self.errors:
            raise self.errors.pop(0)
        mark = f"{self.generation}:{with_vector}:"
        if page_token and not page_token.startswith(mark):
            raise InvalidArgumentError("PAGE_TOKEN_INVALID", "no")
        self._check(page_size, with_vector=with_vector)
        self.asked.append((page_token, page_size, with_vector))
        after = page_token.removeprefix(mark)
        left = [image for image in self.images if image.id > after]
        page = left[:page_size]
        if not with_vector:
            page = [dataclasses.replace(image, embedding=None) for image in page]
        return page, mark + page[-1].id if len(left) > page_size else ""

    def get_many(
        self, name: str, ids: Sequence[str], *, with_vector: bool, with_regions: bool, strong: bool
    ) -> dict[str, Image]:
        assert with_regions
        self._check(len(ids), with_vector=with_vector)
        return {image.id: image for image in self.images if image.id in set(ids)}

    def _check(self, size: int, *, with_vector: bool) -> None:
        if with_vector and size > self.most:
            raise ResourceExhaustedError("ANSWER_TOO_LARGE", "less")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Use parts of 100 rows, pages of 50 and no pauses; return the list of skipped pauses."""
    pauses: list[float] = []
    monkeypatch.setattr(export_module, "PART_ROWS", 100)
    monkeypatch.setattr(listing_module, "PAGE_BYTES", 50 * (2048 + 16))
    monkeypatch.setattr("imagesearch_client.retrying.time.sleep", pauses.append)
    return pauses


def export(client: FakeClient, target: Path, **options: Any) -> ExportReport:
    return export_collection(client, "shoes", target, **options)  # type: ignore[arg-type]


def check(client: FakeClient, target: Path) -> None:
    """Check that the file contains all images of the client, and that no other file is left."""
    found = []
    for item in VectorFileSource(target, VectorOptions()):
        assert isinstance(item, Item)
        assert isinstance(item.content, Embedding)
        found.append((item.id, item.uri, item.attributes, list(item.content.values)))
    expected = [(i.id, i.uri, i.attributes, i.embedding.values.tolist()) for i in client.images if i.embedding]
    assert found == expected
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def stop_at(rows: int) -> Callable[[int], None]:
    def step(seen: int) -> None:
        if seen >= rows:
            raise StoppedError

    return step


@pytest.mark.parametrize("name", ["out.parquet", "out.h5", "out.npz"])
def test_a_stopped_export_is_resumed(tmp_path: Path, name: str) -> None:
    client, target = FakeClient(1234), tmp_path / name
    for stop in (250, 300, 777):
        with pytest.raises(StoppedError):
            export(client, target, on_progress=stop_at(stop))
    steps: list[int] = []
    client.asked.clear()
    report = export(client, target, on_progress=steps.append)
    assert (report.rows, report.resumed_rows, report.pages) == (1234, 700, 11)
    assert report.bytes == target.stat().st_size
    assert client.asked[0][0] == "0:True:i00699"
    assert (steps[0], steps[-1]) == (750, 1234)
    check(client, target)
    source = VectorFileSource(target, VectorOptions())
    assert (source.fingerprint, source.notes["model"], source.notes["metric"]) == ("f1", "m", "ip")
    assert json.loads(source.notes["labels"]) == {"team": "ä"}


def test_a_failed_write_of_the_file_keeps_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client, target = FakeClient(250), tmp_path / "out.parquet"
    with monkeypatch.context() as patch:
        patch.setattr(export_module, "write_vectors", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(ExportError, match=r"No space left.*are kept in .*out\.parquet\.parts"):
            export(client, target)
    client.asked.clear()
    report = export(client, target)
    assert (report.rows, report.resumed_rows, report.pages, client.asked) == (250, 250, 0, [])
    check(client, target)


def test_parts_of_another_export_are_rejected_without_restart(tmp_path: Path) -> None:
    client, target = FakeClient(400), tmp_path / "out.parquet"
    with pytest.raises(StoppedError):
        export(client, target, on_progress=stop_at(250))
    with pytest.raises(ExportError, match=r"filter was None, is '.+'; use --restart"):
        export(client, target, where=equals("n", 1))
    client.collection = dataclasses.replace(SHOES, create_time=TIME.replace(year=2027), fingerprint="f2")
    with pytest.raises(ExportError, match=r"create_time was .* fingerprint was 'f1', is 'f2'"):
        export(client, target)
    report = export(client, target, restart=True)
    assert (report.rows, report.resumed_rows) == (400, 0)
    check(client, target)


def test_an_invalid_page_token_does_not_end_the_export(tmp_path: Path) -> None:
    client, target = FakeClient(1234), tmp_path / "out.parquet"
    with pytest.raises(StoppedError):
        export(client, target, on_progress=stop_at(250))
    client.generation += 1
    client.asked.clear()
    # A run also resumes a listing without vectors, even in the middle of a page.
    with pytest.raises(StoppedError):
        export(client, target, on_progress=stop_at(450))
    assert client.asked == [("", 1000, False)]
    del client.images[1100]
    report = export(client, target)
    assert (report.rows, report.resumed_rows) == (1233, 400)
    check(client, target)


def test_page_tokens_that_are_always_invalid_end_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = FakeClient(1234)
    give = client.list_page

    def refuse(name: str, **options: Any) -> tuple[list[Image], str]:
        images, token = give(name, **{**options, "page_token": ""})
        if options["page_token"]:
            raise InvalidArgumentError("PAGE_TOKEN_INVALID", "no")
        return images[:10], token or "more"

    monkeypatch.setattr(client, "list_page", refuse)
    with pytest.raises(InvalidArgumentError, match="no"):
        export(client, tmp_path / "out.parquet")


def test_a_short_outage_is_retried(tmp_path: Path, small_parts: list[float]) -> None:
    client, target = FakeClient(120), tmp_path / "out.parquet"
    client.errors = [
        UnavailableError("GONE", "away"),
        DeadlineExceededError("SLOW", "slow"),
        UnavailableError("GONE", "away", retry_after=7.0),
        ResourceExhaustedError("BUSY", "busy", retry_after=3.0),
        UnavailableError("GONE", "away"),
    ]
    assert export(client, target).rows == 120
    assert small_parts == pytest.approx([0.1, 0.2, 7.0, 3.0, 1.6], rel=0.25)
    check(client, target)


def test_a_long_outage_ends_the_export(tmp_path: Path, small_parts: list[float]) -> None:
    client, target = FakeClient(220), tmp_path / "out.parquet"
    with pytest.raises(StoppedError):
        export(client, target, on_progress=stop_at(150))
    client.errors = [UnavailableError("GONE", "away", retry_after=9.0)]
    with pytest.raises(UnavailableError):
        export(client, target, retry_seconds=8.0)
    client.errors = [InternalError("BROKEN", "broken")]
    with pytest.raises(InternalError):
        export(client, target)
    assert small_parts == []
    assert export(client, target).resumed_rows == 100


def test_too_large_responses_make_pages_smaller(tmp_path: Path) -> None:
    client, target = FakeClient(300), tmp_path / "out.parquet"
    client.most = 7
    export(client, target)
    assert {size for _, size, _ in client.asked} == {6}
    check(client, target)
    client.most = 0
    with pytest.raises(ResourceExhaustedError):
        export(client, tmp_path / "other.parquet")


def test_an_existing_file_is_replaced_only_with_overwrite(tmp_path: Path) -> None:
    client, target = FakeClient(30), tmp_path / "out.parquet"
    target.write_bytes(b"precious")
    with pytest.raises(ExportError, match="exists"):
        export(client, target)
    assert target.read_bytes() == b"precious"
    export(client, target, overwrite=True)
    check(client, target)


def test_parts_of_a_complete_export_are_not_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client, target = FakeClient(30), tmp_path / "out.parquet"
    with monkeypatch.context() as patch:
        # A kill before the last step leaves the parts.
        patch.setattr("imagesearch_ingest.vector_files.export_parts.ExportParts.remove", lambda _: None)
        export(client, target)
    client.images = FakeClient(40).images
    assert export(client, target, overwrite=True).resumed_rows == 0
    check(client, target)


def test_damaged_parts_raise_an_error_with_the_remedy(tmp_path: Path) -> None:
    client, target = FakeClient(400), tmp_path / "out.parquet"
    with pytest.raises(StoppedError):
        export(client, target, on_progress=stop_at(350))
    folder = tmp_path / "out.parquet.parts"
    (folder / "part-000001.parquet").write_bytes(b"PAR1")
    with pytest.raises(ExportError, match=r"part-000001\.parquet cannot be read.* --restart"):
        export(client, target)
    (folder / "part-000001.parquet").unlink()
    with pytest.raises(ExportError, match="has no part-000001"):
        export(client, target)
    (folder / "state.json").write_text("{")
    with pytest.raises(ExportError, match=r"state\.json cannot be read"):
        export(client, target)
    (folder / "note.txt").write_text("mine")
    export(client, target, restart=True)
    assert [path.name for path in folder.iterdir()] == ["note.txt"]
    assert len(list(VectorFileSource(target, VectorOptions()))) == 400


def test_two_exports_to_one_file_are_rejected(tmp_path: Path) -> None:
    client, target = FakeClient(400), tmp_path / "out.parquet"

    def step(_: int) -> None:
        with pytest.raises(ExportError, match="in use by another command"):
            export(client, target)

    export(client, target, on_progress=step)
    check(client, target)


def test_a_collection_created_again_during_the_export_raises_an_error(tmp_path: Path) -> None:
    client, target = FakeClient(400), tmp_path / "out.parquet"

    def step(_: int) -> None:
        client.collection = dataclasses.replace(SHOES, create_time=TIME.replace(year=2027))

    with pytest.raises(ExportError, match="was deleted and created again during the export"):
        export(client, target, on_progress=step)
    assert not target.exists()


def test_an_impossible_target_raises_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for target, message in [(tmp_path / "out.csv", "unknown suffix"), (tmp_path / "file" / "out.npz", "cannot be")]:
        with pytest.raises(ExportError, match=message):
            export(FakeClient(3), target)


@pytest.mark.parametrize(("where", "message"), [(None, "has no images"), (equals("n", 1), "matches the filter")])
def test_an_empty_collection_raises_an_error_and_leaves_no_file(
    tmp_path: Path, where: Filter | None, message: str
) -> None:
    with pytest.raises(EmptyCollectionError, match=message):
        export(FakeClient(0), tmp_path / "out.parquet", where=where)
    assert list(tmp_path.iterdir()) == []
