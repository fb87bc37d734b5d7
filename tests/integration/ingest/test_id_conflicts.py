"""One id for two images: within a source, and of two sources in one run or in several."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imagesearch_client import Client
from imagesearch_ingest.load.bulk_clients import Endpoint
from imagesearch_ingest.load.job import LoadJob, dry_run, load
from imagesearch_ingest.load.load_options import LoadOptions, LoadServices, LocalFiles
from imagesearch_ingest.load.report import LoadReport
from imagesearch_ingest.sources.open_source import open_source
from imagesearch_ingest.sources.source_options import SourceOptions
from imagesearch_ingest.vector_files.vector_file_source import VectorFileSource, VectorOptions
from tests.integration.ingest.conftest import Run, ids, png


@pytest.fixture
def cameras(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders that share one file name, with different images."""
    folders = tmp_path / "2023", tmp_path / "2024"
    for number, (folder, names) in enumerate(zip(folders, (("1", "2"), ("1", "3")), strict=True)):
        folder.mkdir()
        for name in names:
            (folder / f"IMG_{name}.png").write_bytes(png(10 * number + int(name)))
    return folders


def uri(client: Client, name: str, image_id: str = "IMG_1.png") -> str:
    return client.get(name, image_id, strong=True).uri


@pytest.mark.parametrize("via_search", [False, True])
def test_shared_id_of_two_folders_stays_with_the_first(
    run: Run, client: Client, name: str, cameras: tuple[Path, Path], via_search: bool
) -> None:
    one, other = cameras
    assert run(one, via_search=via_search).stored == 2
    for _ in range(2):
        report = run(other, via_search=via_search)
        assert report.reasons == {"ID_TWICE": 1}
        message = report.first_rejects[0].message
        assert str(one / "IMG_1.png") in message
        assert "--replace" in message
        assert uri(client, name) == str(one / "IMG_1.png")
    assert report.skipped == 1
    # In any order, and in any combination.
    for sources in ((one,), (other, one), (one, other)):
        report = run(*sources)
        assert (report.stored, report.updated, report.replaced) == (0, 0, 0)
        assert report.reasons == ({"ID_TWICE": 1} if other in sources else {})
    assert ids(client, name) == ["IMG_1.png", "IMG_2.png", "IMG_3.png"]
    assert uri(client, name) == str(one / "IMG_1.png")


def test_dry_run_reports_a_shared_id(run: Run, cameras: tuple[Path, Path], tmp_path: Path) -> None:
    one, other = cameras
    run(one)
    report = LoadReport()
    source = open_source(str(other), SourceOptions())
    dry_run([source], LocalFiles(tmp_path / "of.ledger"), LoadOptions(), report)
    assert report.reasons == {"ID_TWICE": 1}
    assert run(other).reasons == {"ID_TWICE": 1}


def test_id_of_a_removed_file_moves_to_the_other_folder(
    run: Run, client: Client, name: str, cameras: tuple[Path, Path]
) -> None:
    one, other = cameras
    run(one)
    run(other)
    (one / "IMG_1.png").unlink()
    report = run(other)
    assert (report.stored, report.replaced, report.failed) == (1, 1, 0)
    assert uri(client, name) == str(other / "IMG_1.png")
    assert run(other).skipped == 2
    # The id belongs to the other folder now.
    assert run(one, prune=True).removed == 0
    assert ids(client, name) == ["IMG_1.png", "IMG_2.png", "IMG_3.png"]


def test_pruning_keeps_an_id_that_another_folder_could_not_take(
    run: Run, client: Client, name: str, cameras: tuple[Path, Path]
) -> None:
    one, other = cameras
    run(one)
    run(other)
    assert run(other, prune=True).removed == 0
    (other / "IMG_1.png").unlink()
    assert run(other, prune=True).removed == 0
    assert uri(client, name) == str(one / "IMG_1.png")


def test_replace_stores_the_new_image(run: Run, client: Client, name: str, cameras: tuple[Path, Path]) -> None:
    one, other = cameras
    run(one)
    report = run(other, replace=True)
    assert (report.stored, report.replaced, report.failed) == (2, 1, 0)
    assert uri(client, name) == str(other / "IMG_1.png")
    assert run(one).reasons == {"ID_TWICE": 1}


def test_folder_by_another_path_is_the_same_source(
    run: Run, client: Client, name: str, cameras: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = cameras
    run(one)
    monkeypatch.chdir(one.parent)
    assert run("2023").skipped == 2
    link = one.with_name("link")
    link.symlink_to(one)
    report = run(link)
    assert (report.updated, report.replaced, report.failed) == (2, 0, 0)
    assert uri(client, name) == str(link / "IMG_1.png")
    link.unlink()
    moved = one.rename(one.with_name("moved"))
    report = run(moved)
    assert (report.updated, report.replaced, report.failed) == (2, 0, 0)


def test_copy_of_a_folder_conflicts_except_by_content(
    run: Run, client: Client, name: str, cameras: tuple[Path, Path]
) -> None:
    one, _ = cameras
    copy = one.with_name("copy")
    shutil.copytree(one, copy)
    run(one)
    assert run(copy).reasons == {"ID_TWICE": 2}
    by_content = SourceOptions(by_content=True)
    for folder in (one, copy, one):
        assert run(folder, source_options=by_content).failed == 0
    assert len(ids(client, name)) == 4


def write_rows(manifest: Path, *rows: str) -> None:
    manifest.write_text("\n".join(["path,id", *rows]))


@pytest.mark.usefixtures("cameras")
def test_manifest_may_change_only_its_own_paths(run: Run, client: Client, name: str, tmp_path: Path) -> None:
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    write_rows(first, "2023/IMG_1.png,sku")
    run(first)
    # The paths of the rows identify the images, whatever the manifest's name.
    shutil.copyfile(first, second)
    assert run(second).skipped == 1
    write_rows(first, "2023/IMG_2.png,sku")
    report = run(first)
    assert (report.stored, report.replaced, report.failed) == (1, 0, 0)
    assert run(second).reasons == {"ID_TWICE": 1}
    assert uri(client, name, "sku") == str(tmp_path / "2023" / "IMG_2.png")
    # The first manifest no longer exists.
    first.unlink()
    report = run(second)
    assert (report.stored, report.replaced) == (1, 1)
    assert uri(client, name, "sku") == str(tmp_path / "2023" / "IMG_1.png")


def test_images_of_another_ledger_are_replaced_and_counted(
    run: Run, client: Client, name: str, cameras: tuple[Path, Path], tmp_path: Path
) -> None:
    one, other = cameras
    run(one)
    client.update(name, "IMG_1.png", attributes={"price": 3})
    (tmp_path / "of.ledger").unlink()
    report = run(other)
    assert (report.stored, report.replaced) == (2, 1)
    assert client.get(name, "IMG_1.png", strong=True).attributes == {"price": 3}
    # An unchanged image does not count as replaced, although the ledger does not know it.
    report = run(other, restart=True)
    assert (report.stored, report.replaced) == (2, 0)


@pytest.mark.parametrize(
    ("rows", "reasons", "skipped"),
    [
        (("a.png,s0,1", "a.png,s0,1"), {}, 1),
        (("a.png,s0,1", "a.png,s0,2"), {"ID_TWICE": 1}, 0),
        (("a.png,s0,1", "a.png,s0,"), {"ID_TWICE": 1}, 0),
        (("a.png,s0,1", "b.png,s0,1"), {"ID_TWICE": 1}, 0),
    ],
)
@pytest.mark.parametrize("between", [0, 1300])
def test_repeated_manifest_row_counts_once_if_equal(
    run: Run, folder: Path, rows: tuple[str, str], reasons: dict[str, int], skipped: int, between: int
) -> None:
    manifest = folder / "products.csv"
    # Distant rows are compared by the ledger.
    others = [f"c.png,c{number},1" for number in range(min(between, 10))]
    others += [f"gone.png,g{number},1" for number in range(between - len(others))]
    manifest.write_text("\n".join(["path,id,price", rows[0], *others, rows[1]]))
    for run_number in range(2):
        report = run(manifest)
        assert report.reasons["ID_TWICE"] == reasons.get("ID_TWICE", 0)
        assert report.listed == report.done
        assert report.skipped == skipped + (run_number and 1 + min(between, 10))


def test_folder_and_its_manifest_conflict_only_over_attributes(run: Run, folder: Path) -> None:
    manifest = folder / "products.csv"
    manifest.write_text("path,price\na.png,1\n")
    assert run(folder, manifest).reasons == {"ID_TWICE": 1}
    listing = folder / "list.txt"
    listing.write_text("a.png\n")
    assert run(folder, listing).failed == 0


Import = Callable[..., LoadReport]


@pytest.fixture
def run_import(client: Client, search_address: str, name: str, tmp_path: Path) -> Import:
    """Import a vector file into the test's collection, as `imagesearch import` does."""
    client.create_collection(name, dimension=8, fingerprint="x")

    def run_import(file: Path, ledger: str = "of.ledger", **options: bool) -> LoadReport:
        source = VectorFileSource(file, VectorOptions("x"))
        services = LoadServices(Endpoint(search_address), None, 1, vectors_only=True)
        files = LocalFiles(tmp_path / ledger)
        load_options = LoadOptions(**options)  # type: ignore[arg-type]
        return load(LoadJob(client, client.get_collection(name), [source], services, files, load_options))

    return run_import


def write_vectors(file: Path, rows: dict[str, list[int]], **columns: list[object]) -> None:
    """Write one row per seed of each id."""
    names = [image_id for image_id, seeds in rows.items() for _ in seeds]
    vectors = [np.random.default_rng(seed).standard_normal(8).tolist() for seeds in rows.values() for seed in seeds]
    pq.write_table(pa.table({"id": names, "embedding": vectors, **columns}), file)


def test_repeated_id_in_a_vector_file(run_import: Import, tmp_path: Path) -> None:
    file = tmp_path / "vectors.parquet"
    write_vectors(file, {"a": [1, 2], "b": [3, 3], "c": [4]})
    for stored in (3, 0):
        report = run_import(file)
        assert (report.stored, report.reasons) == (stored, {"ID_TWICE": 1})
        assert report.skipped == (1 if stored else 4)
    write_vectors(file, {"a": [1, 1], "b": [3]}, price=[1, 2, 3])
    assert run_import(file).reasons == {"ID_TWICE": 1}


def test_shared_id_of_two_vector_files_stays_with_the_first(
    run_import: Import, client: Client, name: str, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.parquet", tmp_path / "second.parquet"
    write_vectors(first, {"a": [1], "b": [2]})
    write_vectors(second, {"a": [3], "b": [2], "c": [4]})
    run_import(first)
    before = client.get(name, "a", with_vector=True, strong=True)
    report = run_import(second)
    assert (report.stored, report.skipped, report.reasons) == (1, 1, {"ID_TWICE": 1})
    assert client.get(name, "a", with_vector=True, strong=True) == before
    # Another ledger does not know the ids, but the search service does.
    report = run_import(second, "other.ledger")
    assert (report.stored, report.replaced) == (3, 1)
    assert run_import(second, "third.ledger").replaced == 0
    # A changed file is an update, and so is a file that replaces another one.
    write_vectors(first, {"a": [5]})
    report = run_import(first)
    assert (report.stored, report.replaced) == (1, 0)
    first.unlink()
    write_vectors(tmp_path / "renamed.parquet", {"a": [6]})
    report = run_import(tmp_path / "renamed.parquet")
    assert (report.stored, report.replaced, report.failed) == (1, 1, 0)


def test_vector_with_another_region_conflicts(run_import: Import, tmp_path: Path) -> None:
    file = tmp_path / "vectors.parquet"
    write_vectors(file, {"a": [1, 1]}, region=[[0.0, 0.0, 0.5, 1.0], [0.0, 0.0, 1.0, 1.0]])
    assert run_import(file).reasons == {"ID_TWICE": 1}
