import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import adjusted_rand_score, silhouette_score

from imagesearch_analysis import clusters as clusters_module
from imagesearch_analysis import vectors as vectors_module
from imagesearch_analysis.cluster_files import rows, write_sheet, write_table
from imagesearch_analysis.clusters import NOISE, Clusters, hdbscan, k_means
from imagesearch_analysis.errors import AnalysisError
from imagesearch_analysis.snapshot import Snapshot
from imagesearch_client import Metric
from tests.unit.analysis.snapshots import normal, red_pixels, snapshot_of

SIZES = (120, 80, 60, 40)
TRUTH = np.repeat(range(4), SIZES)


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    vectors = 6 * normal(4, 24, seed=1)[TRUTH] + normal(300, 24)
    # The order of the ids is not that of the clusters.
    return snapshot_of(tmp_path / "snapshot", vectors[np.random.default_rng(0).permutation(300)])


def truth() -> list[int]:
    order: list[int] = TRUTH[np.random.default_rng(0).permutation(300)].tolist()
    return order


@pytest.mark.parametrize("count", [4, None])
@pytest.mark.parametrize("in_blocks", [False, True])
def test_k_means_finds_the_true_clusters_and_reports_progress(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, count: int | None, *, in_blocks: bool
) -> None:
    if in_blocks:
        monkeypatch.setattr(clusters_module, "SAMPLE", 100)
        monkeypatch.setattr(vectors_module, "BLOCK_ROWS", 50)
    progress: list[int] = []
    found = k_means(snapshot, count, 0, progress.append)
    assert found.count == 4
    assert found.sizes() == list(SIZES)
    assert adjusted_rand_score(truth(), found.labels) == 1
    assert progress[-1] == 300
    assert found.labels.tolist() == truth()
    vectors = snapshot.block(0, 300)
    expected = silhouette_score(vectors, found.labels)
    assert found.silhouette == pytest.approx(expected, abs=0.05 if in_blocks else 1e-6)
    for cluster in range(4):
        own = np.flatnonzero(found.labels == cluster)
        central = found.most_central(cluster, 5)
        middle = np.linalg.norm(vectors[own] - vectors[own].mean(axis=0), axis=1)
        assert np.linalg.norm(vectors[central] - vectors[own].mean(axis=0), axis=1).mean() < np.median(middle)


@pytest.mark.parametrize("metric", [Metric.L2, Metric.IP])
@pytest.mark.parametrize("length", [4e-16, 6e18])
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_very_short_and_very_long_vectors_have_the_same_clusters(tmp_path: Path, metric: Metric, length: float) -> None:
    vectors = 6 * normal(4, 24, seed=1)[TRUTH] + normal(300, 24)
    vectors /= np.linalg.norm(vectors, axis=1).max()
    usual = snapshot_of(tmp_path / "usual", vectors, metric)
    extreme = snapshot_of(tmp_path / "extreme", vectors * np.float32(length), metric)
    for expected, found in (
        (k_means(usual, None, 0), k_means(extreme, None, 0)),
        (hdbscan(usual, 5, 0), hdbscan(extreme, 5, 0)),
    ):
        assert found.labels.tolist() == expected.labels.tolist()
        assert found.silhouette == pytest.approx(expected.silhouette)
        assert np.nanmax(found.distances) == pytest.approx(np.nanmax(expected.distances) * length, rel=1e-3)
        table = [row["distance"] for row in rows(extreme, found) if row["distance"] is not None]
        assert min(table) > 0


def test_the_same_seed_returns_the_same_clusters(snapshot: Snapshot) -> None:
    one, other = (k_means(snapshot, 7, 3) for _ in range(2))
    assert (one.labels == other.labels).all()


def test_k_means_supports_more_clusters_than_the_sample_size(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters_module, "SAMPLE", 20)
    assert k_means(snapshot, 25, 0).count == 25


def test_k_means_leaves_out_clusters_without_images(tmp_path: Path) -> None:
    with snapshot_of(tmp_path, np.repeat(normal(3, 4), 5, axis=0)) as snapshot:
        found = k_means(snapshot, 6, 0)
    assert (found.count, found.sizes()) == (3, [5, 5, 5])


def test_hdbscan_labels_isolated_images_as_noise(tmp_path: Path) -> None:
    vectors = np.concatenate([6 * normal(2, 8, seed=1)[np.repeat([0, 1], 40)] + 0.3 * normal(80, 8), 50 * normal(3, 8)])
    with snapshot_of(tmp_path, vectors, Metric.L2) as snapshot:
        found = hdbscan(snapshot, 5, 0)
    assert found.sizes() == [40, 40]
    assert found.labels.tolist() == [0] * 40 + [1] * 40 + [NOISE] * 3
    assert np.isnan(found.distances[80:]).all()
    assert found.distances[:40] == pytest.approx(
        np.linalg.norm(vectors[:40] - vectors[:40].mean(axis=0), axis=1), rel=1e-5
    )


def test_hdbscan_finds_no_cluster_without_dense_images(tmp_path: Path) -> None:
    with snapshot_of(tmp_path / "s", 100 * normal(6, 50), Metric.L2) as snapshot:
        found = hdbscan(snapshot, 5, 0)
        assert (found.count, found.silhouette, set(found.labels.tolist())) == (0, None, {NOISE})
        for name in ("sheet.html", "sheet.png"):
            write_sheet(tmp_path / name, snapshot, found)
            assert (tmp_path / name).stat().st_size


def test_k_means_accepts_equal_images(tmp_path: Path) -> None:
    with snapshot_of(tmp_path, np.ones((10, 4), np.float32)) as snapshot:
        assert k_means(snapshot, None, 0).count >= 1


def test_too_few_or_too_many_images_raise_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with snapshot_of(tmp_path, normal(6, 4)) as snapshot:
        with pytest.raises(AnalysisError, match="shoes has 6 images, too few for 7 clusters"):
            k_means(snapshot, 7, 0)
        with pytest.raises(AnalysisError, match="too few for a cluster of 8"):
            hdbscan(snapshot, 8, 0)
        monkeypatch.setattr(clusters_module, "MAX_HDBSCAN_IMAGES", 5)
        with pytest.raises(AnalysisError, match="use --method kmeans"):
            hdbscan(snapshot, 2, 0)


def test_table_and_sheets_contain_all_clusters(tmp_path: Path) -> None:
    Image.new("RGB", (60, 60), (200, 10, 10)).save(tmp_path / "red.png")
    uris = [str(tmp_path / "red.png"), "/nowhere.png", ""]
    clusters = Clusters(np.array([0, 0, NOISE]), np.array([0.5, 0.25, np.nan]), 1, None)
    with snapshot_of(tmp_path / "s", normal(3, 4), uris=uris) as snapshot:
        for suffix in (".csv", ".jsonl"):
            write_table(tmp_path / f"table{suffix}", snapshot, clusters)
        for suffix in (".html", ".png"):
            write_sheet(tmp_path / f"sheet{suffix}", snapshot, clusters)
    assert [json.loads(line) for line in (tmp_path / "table.jsonl").read_text().splitlines()] == [
        {"id": "i00000", "cluster": 0, "distance": 0.5},
        {"id": "i00001", "cluster": 0, "distance": 0.25},
        {"id": "i00002", "cluster": -1, "distance": None},
    ]
    with (tmp_path / "table.csv").open(newline="") as file:
        assert [list(row.values()) for row in csv.DictReader(file)] == [
            ["i00000", "0", "0.5"],
            ["i00001", "0", "0.25"],
            ["i00002", "-1", ""],
        ]
    page = (tmp_path / "sheet.html").read_text()
    assert page.index("i00001") < page.index("i00000")
    assert "i00002" not in page
    assert (page.count("data:image/jpeg;base64,"), page.count('class="none"')) == (1, 1)
    assert red_pixels(tmp_path / "sheet.png") > 3000
