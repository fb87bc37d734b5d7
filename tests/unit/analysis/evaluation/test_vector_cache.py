"""The cache of vectors, with kills and damaged files."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from imagesearch_analysis.evaluation.vector_cache import CacheError, VectorCache

VECTOR = np.array([1.5, -2.25, 3], np.float32)


def test_vectors_are_stored_by_content_and_model(tmp_path: Path) -> None:
    with VectorCache(tmp_path / "new", "vgg16-avg-1", 3) as cache:
        assert cache.get("aa") is None
        cache.put("aa", VECTOR)
    with VectorCache(tmp_path / "new", "vgg16-avg-1", 3) as cache:
        found = cache.get("aa")
        assert found is not None
        assert found.dtype == np.float32
        assert found.tolist() == VECTOR.tolist()
        assert cache.missing(["bb", "aa", "bb", "cc"]) == ["bb", "cc"]
    with VectorCache(tmp_path / "new", "vgg16-avg-2", 3) as other:
        assert other.get("aa") is None


def test_a_vector_of_another_dimension_is_missing(tmp_path: Path) -> None:
    with VectorCache(tmp_path, "model", 3) as cache:
        cache.put("aa", VECTOR)
    with VectorCache(tmp_path, "model", 4) as cache:
        assert cache.missing(["aa"]) == ["aa"]


@pytest.mark.parametrize("values", [[np.nan, 1, 2], [np.inf, 1, 2], [0, 0, 0]])
def test_a_zero_or_infinite_vector_is_missing(tmp_path: Path, values: list[float]) -> None:
    with VectorCache(tmp_path, "model", 3) as cache:
        # An earlier version stored such vectors.
        cache.put("aa", np.array(values, np.float32))
        assert cache.missing(["aa"]) == ["aa"]


def test_a_fingerprint_never_becomes_a_path(tmp_path: Path) -> None:
    with VectorCache(tmp_path / "cache", "../a b/c", 3) as cache:
        cache.put("aa", VECTOR)
    assert {path.name for path in tmp_path.rglob("*.sqlite")} == {".._a_b_c.sqlite"}
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_stored_vectors_survive_a_kill(tmp_path: Path) -> None:
    code = (
        "import numpy, os, pathlib, signal, sys\n"
        "from imagesearch_analysis.evaluation.vector_cache import VectorCache\n"
        "cache = VectorCache(pathlib.Path(sys.argv[1]), 'model', 3)\n"
        "for number in range(100): cache.put(str(number), numpy.full(3, number + 1, numpy.float32))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    with VectorCache(tmp_path, "model", 3) as cache:
        assert cache.missing(map(str, range(101))) == ["100"]


def test_a_damaged_cache_raises_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "model.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(CacheError, match=r"model.sqlite cannot be used: .*; use --cache to name another folder"):
        VectorCache(tmp_path, "model", 3)
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="use --cache to name another folder"):
        VectorCache(tmp_path / "file", "model", 3)
